"""The numbers of a catalog's own prompts, as features: counts and rates in the prompt's steps.

    features = prompt_numbers(catalog, "test", 20)  # float32 [pairs, numbers], nan for a missing number

1. Only the ops of the prompt program that choose among steps stay (`bins`).
2. A piece is written as its own number instead of as tokens, so that a prompt shows which step was chosen.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
from as_of import Features
from safetensors.numpy import save_file

from rexit.data.slates import cut
from rexit.exporter.prompt.builder import PromptBuilder
from rexit.exporter.prompt.program import Op
from rexit.format.bundle import Catalog


def number_ops(catalog: Catalog) -> list[Op]:
    """The ops of its prompt program that write a number."""
    prompt = catalog.info["prompt"]
    return [op for op in (*prompt["prefix"], *prompt["candidate"]) if "bins" in op]


def prompt_numbers(catalog: Catalog, split: str, size: int) -> Features:
    """What the prompts of a split's pairs, in slates of `size`, say in numbers: steps from 0, in the split's order."""
    ops = number_ops(catalog)
    info = {**catalog.info, "prompt": {**catalog.info["prompt"], "prefix": [], "candidate": ops, "inputs": [], "vectors": []}}
    with tempfile.TemporaryDirectory() as place:
        folder, count = Path(place) / "catalog", info["counts"]["pieces"]
        shutil.copytree(catalog.path, folder)
        save_file({"offsets": np.arange(count + 1), "tokens": np.arange(count, dtype=np.int32)}, folder / "pieces.safetensors")
        info["tokenizer"] = {**info["tokenizer"], "vocab_size": count}  # a piece is its number
        builder = PromptBuilder.of(Catalog(folder, info, catalog.files), split)
        slates = cut(catalog, split, size)
        prompts = [builder.prompt(slate.user, slate.items, slate.as_of) for slate in slates]
    pieces = np.concatenate([prompt.candidates for prompt in prompts])
    steps = np.full(pieces.shape, np.nan, np.float32)
    for column, op in enumerate(ops):
        for step, piece in enumerate(op["bins"]):
            steps[pieces[:, column] == piece, column] = step
    return steps
