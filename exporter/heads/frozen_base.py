"""The model whose weights do not change, and the answer it gives at its end.

The last answer comes from, in this order:

1. the last exit of its `exits.json`, with the decoder cut there, as an export does;
2. a reranker's own, in the forms of `rexit.exporter.checkpoints.rerankers`, after the last layer;
3. the two label rows of its LM head, behind its final norm.

The heads of the chosen exits, as a checkpoint stores them.

A fitted head's scale becomes the norm's weight, its weights the projection. The model's own last answer is copied.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from rexit.bundle import Catalog
from rexit.bundle.manifest import TOKENIZER
from rexit.errors import CheckpointError, InputError
from rexit.exporter.checkpoints.checkpoint import EXITS, HEADS, PROJECTORS, Checkpoint, load_checkpoint, read_exits, write_exits
from rexit.exporter.checkpoints.rerankers import read_reranker
from rexit.exporter.checkpoints.sentence_modules import module_files
from rexit.exporter.checkpoints.weights import PATTERNS, decoder_model, located
from rexit.exporter.heads.layers import Layers
from rexit.exporter.libraries import quiet
from rexit.exporter.model.encoder import split
from rexit.exporter.model.multi_exit import ExitHeads
from rexit.exporter.preflight import check_fit, check_trained_on
from rexit.exporter.prompt.pieces import fingerprint, load_tokenizer
from rexit.exporter.source import Source

MODEL_FILES = (*PATTERNS, "*.json", "*.model", "*.txt", "*.jinja")
"""Weights, configs, tokenizer."""
NO_LIMIT = 1 << 62


def load_base(
    source: str | Path, labels: Mapping[str, int] | None, reranker: str | None = None
) -> tuple[Checkpoint, ExitHeads | None]:
    """Loads a folder, also a PEFT adapter's, a GGUF file, or a model from the Hub.

    Args:
        source: path or Hub id.
        labels: the catalog's labels; None: the model names them, or has no LM head that answers.
        reranker: see `load_checkpoint`.

    Returns:
        The model, whose heads are not used, and its last answer as one head; None if it has none.

    Raises:
        CheckpointError: it is missing, truncated, of an unsupported kind, or was trained with other labels.
    """
    folder = located(source)
    if read_exits(folder):
        checkpoint = load_checkpoint(folder, labels=labels, reranker=reranker)
        return checkpoint, checkpoint.heads.pick([len(checkpoint.exits) - 1])
    form = read_reranker(folder, reranker)
    if form:
        checkpoint = load_checkpoint(folder, form.exits[-1:], labels=labels, reranker=reranker)
        return checkpoint, checkpoint.heads
    with quiet():
        decoder = split(decoder_model(folder))
    depth = len(decoder.layers)
    own: ExitHeads | None
    try:
        own = None if labels is None else ExitHeads.shared(decoder, 1, labels)
    except CheckpointError:  # no LM head of this width, or no rows for these labels
        own = None
    heads = ExitHeads.like(decoder, 1)
    return Checkpoint(folder, decoder, (depth,), heads, "own", dict(labels or {}), None, None), own


def check_base(base: Checkpoint, catalog: Catalog, accept_catalog: bool) -> None:
    """The catalog's tokens and prompts fit the model, and it brings projectors for all vectors in them. Raises InputError."""
    if catalog.vector_ids is not None and base.projectors is None:
        raise InputError(
            f"{base.path}: has no projectors, and the prompts of {catalog.path} have vectors, which a frozen model never learned "
            "to read: train it with `rexit train`, or use a template of words alone"
        )
    check_fit(base, catalog, NO_LIMIT)
    if accept_catalog:
        return
    check_trained_on(base, catalog)
    if (base.path / TOKENIZER).is_file() and fingerprint(load_tokenizer(str(base.path))) != catalog.info["tokenizer"]["sha256"]:
        raise InputError(
            f"{base.path / TOKENIZER}: is another tokenizer than that of {catalog.path}: index with the model's own; "
            "--accept-catalog goes on all the same"
        )


def write_checkpoint(base: Checkpoint, folder: Path, exits: Sequence[int], heads: ExitHeads, source: Source) -> None:
    """Copies the model's own files and writes new heads to the same folder. A GGUF file's weights are written in float32.

    source: whose users fitted and chose.
    """
    if base.path.is_dir():
        for path in sorted(_model_files(base.path)):
            shutil.copyfile(path, folder / path.name)
        for name in module_files(base.path):
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(base.path / name, folder / name)
    else:
        with quiet():
            decoder_model(base.path).save_pretrained(folder)  # again: a forward pass in bfloat16 rounded the one in memory
    save_file(heads.tensors(), folder / HEADS)
    projectors = None if base.projectors is None else base.projectors.kinds
    traits = source.traits if isinstance(source, Catalog) else None
    write_exits(folder, exits, base.labels, traits, projectors, base.reranker, source.roles.rule)


def checkpoint_bytes(base: Checkpoint) -> int:
    """Bytes that `write_checkpoint` writes of the model."""
    if base.path.is_dir():
        return sum(path.stat().st_size for path in _model_files(base.path))
    return sum(4 * parameter.numel() for parameter in base.model.parameters())


def _model_files(folder: Path) -> Iterable[Path]:
    replaced = (EXITS, HEADS) if (folder / EXITS).is_file() else (EXITS, HEADS, PROJECTORS)
    return {path for pattern in MODEL_FILES for path in folder.glob(pattern) if path.is_file() and path.name not in replaced}


@torch.no_grad()
def exit_heads(base: Checkpoint, own: ExitHeads | None, fit: Layers, exits: Sequence[int]) -> ExitHeads:
    """Assembles the heads.

    Args:
        base: the model.
        own: the model's own last answer; None if it has none.
        fit: every layer's heads.
        exits: depths in layers.
    """
    heads = ExitHeads.like(base.decoder, len(exits))
    for k, depth in enumerate(exits):
        if (head := fit.at(depth).head) is None:
            assert own is not None
            heads.norms[k], heads.projections[k] = own.norms[0], own.projections[0]
            continue
        for name, parameter in heads.norms[k].named_parameters():
            parameter.copy_(torch.from_numpy(head.scale) if name == "weight" else torch.zeros_like(parameter))
        projection: Any = heads.projections[k]
        weight = torch.from_numpy(head.weight)
        projection.weight.copy_(torch.stack([-weight, weight]) / 2)
        projection.bias.copy_(torch.tensor([-head.bias, head.bias]) / 2)
    return heads.cpu()
