"""Trains a small multi-exit Llama on a catalog's prompts, and reports every exit's AUC on validation slates.

    python examples/movielens/train.py --catalog CATALOG --out CHECKPOINT [--epochs 1] [--init random|FOLDER|HUB_ID]
    python examples/movielens/train.py --catalog CATALOG --out MODEL --exits 6        the last head alone, for `rexit heads`

Rows are as in serving: one user's prefix at some time, with the next few interactions packed behind it as candidates, so that one
forward pass uses many labels. Every exit has its own head; the loss is the mean of the exits' cross-entropies; shallower layers
learn at a higher rate (OptiRAG-Rec, arXiv 2501.02173). The paper specifies neither exit positions, loss weights nor rates: those
here are our choice. This script is an example, not part of rexit's packages: write your own, and save with
`rexit.exporter.save_checkpoint`.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import track
from sklearn.metrics import roc_auc_score
from transformers import LlamaConfig, LlamaForCausalLM

from rexit.bundle import Catalog
from rexit.bundle.manifest import log_odds_of
from rexit.errors import script
from rexit.exporter.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from rexit.exporter.libraries import threads_for
from rexit.exporter.model.decoder import Decoder
from rexit.exporter.model.multi_exit import ExitHeads, MultiExitModel
from rexit.exporter.model.packed import ATTENTION
from rexit.exporter.model.training import Rows, batches, fast_bfloat16, fresh_projectors, packed_rows, parameter_groups
from rexit.slates import runs


def option(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Settings:
    """The options of a training, and of the command line."""

    init: str = option("random", "`random`, or the folder or Hub id of a decoder to fine-tune")
    exits: str = option("1,2,4,6", "depths in layers")
    layers: int = option(6, "of a random model")
    hidden: int = option(128, "of a random model, a multiple of 64")
    epochs: float = option(1.0, "passes over the training split; below 1, one pass over evenly spaced slates")
    slate: int = option(8, "interactions packed behind one prefix")
    batch_tokens: int = option(2048, "of one step, padding included")
    validation_slates: int = option(500, "to report AUC on, evenly spaced; 0: all")
    rate: float = option(7e-4, "peak learning rate of the deepest layers")
    rate_ratio: float = option(0.8, "rate of an exit's layers over that of the exit before")
    weight_decay: float = option(0.1, "AdamW's")
    seed: int = option(0, "of weights and of the order of batches")

    @classmethod
    def add_options(cls, parser: argparse.ArgumentParser) -> None:
        for setting in fields(cls):
            name, default = "--" + setting.name.replace("_", "-"), setting.default
            parser.add_argument(name, type=type(default), default=default, help=f"{setting.metadata['help']} ({default})")

    @classmethod
    def of(cls, args: argparse.Namespace) -> Settings:
        return cls(**{setting.name: getattr(args, setting.name) for setting in fields(cls)})


def packed_slates(catalog: Catalog, split: str, size: int, count: int = 0) -> Rows:
    """Returns at most `count` slates of a split (0: all), with a progress bar."""
    return packed_rows(
        catalog, split, size, count, track=partial(track, description=f"prompts of {split}", disable=not sys.stderr.isatty())
    )


def forward(model: MultiExitModel, data: Rows, chosen: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns logits [exits, candidates, 2] and labels [candidates] of the chosen rows, in bfloat16 where that is fast."""
    inputs = data.inputs(model, chosen)
    with torch.autocast("cpu", torch.bfloat16, enabled=fast_bfloat16(torch.device("cpu"))):
        logits = model(*inputs)
    return logits, torch.from_numpy(data.liked(chosen))


@torch.no_grad()
def auc(model: MultiExitModel, data: Rows) -> list[float]:
    """Returns the AUC of each exit's log-odds."""
    model.eval()
    order = np.argsort(data.lengths)
    parts = [forward(model, data, list(chosen)) for chosen in np.array_split(order, math.ceil(len(order) / 16))]
    model.train()
    log_odds = log_odds_of(torch.cat([z for z, _ in parts], 1).float().numpy())
    labels = torch.cat([y for _, y in parts]).numpy()
    return [float(roc_auc_score(labels, of_exit)) for of_exit in log_odds]


def make_model(catalog: Catalog, chosen: Settings) -> MultiExitModel:
    """Returns a new Llama, or a pretrained decoder with heads that start from its LM head; with new projectors if prompts have
    vectors."""
    exits = [int(e) for e in chosen.exits.split(",")]
    if chosen.init != "random":
        start = load_checkpoint(chosen.init, exits, "shared", catalog.labels)
        return MultiExitModel(start.decoder, start.heads, start.exits, fresh_projectors(catalog, start.decoder))
    config = LlamaConfig(
        vocab_size=catalog.info["tokenizer"]["vocab_size"],
        hidden_size=chosen.hidden,
        intermediate_size=3 * chosen.hidden,
        num_hidden_layers=chosen.layers,
        num_attention_heads=chosen.hidden // 32,
        num_key_value_heads=chosen.hidden // 64,
        head_dim=32,
        max_position_embeddings=1024,
        initializer_range=0.05,
        tie_word_embeddings=True,
        attn_implementation=ATTENTION,  # type: ignore[call-arg] # of the base class, which takes any
    )
    decoder = Decoder.of(LlamaForCausalLM(config))
    heads = ExitHeads.like(decoder, len(exits))
    return MultiExitModel(decoder, heads, exits, fresh_projectors(catalog, decoder))


def train(model: MultiExitModel, catalog: Catalog, chosen: Settings) -> None:
    model.train()
    rng = np.random.default_rng(chosen.seed)
    share = min(1.0, chosen.epochs)
    data = packed_slates(
        catalog, "train", chosen.slate, math.ceil(share * len(runs(catalog, "train", chosen.slate, one_request=False)[1]))
    )
    groups = parameter_groups(model, chosen.rate, chosen.rate_ratio)
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=chosen.weight_decay, fused=True)
    steps = int(chosen.epochs / share * len(batches(data.lengths, chosen.batch_tokens, np.random.default_rng(chosen.seed))))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, [g["lr"] for g in groups], total_steps=steps + 1, pct_start=0.1)

    def stream() -> Iterator[list[int]]:
        while True:
            yield from batches(data.lengths, chosen.batch_tokens, rng)

    start, losses = time.monotonic(), []
    for step, rows in zip(range(1, steps + 1), stream(), strict=False):
        logits, liked = forward(model, data, rows)
        loss = F.cross_entropy(logits.flatten(0, 1), liked.repeat(len(logits)))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step % 50 == 0 or step == steps:
            print(f"step {step}/{steps}  loss {np.mean(losses[-50:]):.4f}  {time.monotonic() - start:.0f} s", flush=True)


@script
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--catalog", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    Settings.add_options(parser)
    args = parser.parse_args()
    catalog, chosen = Catalog.open(args.catalog), Settings.of(args)
    torch.manual_seed(chosen.seed)
    model = make_model(catalog, chosen)
    with threads_for(max(weights.numel() for weights in model.parameters())):
        train(model, catalog, chosen)
        areas = auc(model, packed_slates(catalog, "validation", chosen.slate, chosen.validation_slates))
    print("validation AUC  " + "  ".join(f"exit {e}: {a:.4f}" for e, a in zip(model.exits, areas, strict=True)))
    labels, traits = catalog.labels, catalog.traits
    save_checkpoint(args.out, model.model, model.exits, model.heads, labels, traits, projectors=model.projectors)


if __name__ == "__main__":
    main()
