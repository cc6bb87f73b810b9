"""How a text becomes one vector of a prompt: attention over its tokens, their mean, or a sentence encoder; judged by a model.

    python benchmarks/projectors.py CATALOG --items ITEMS --users USERS --tokenizer T --encoder MINILM --work WORK TEMPLATE.toml

| pooling | a text's vector |
|---|---|
| attention | learned queries over the model's token embeddings, then a linear layer: what rexit trains |
| mean | the mean of these embeddings, then the same layer |
| sentence | a frozen encoder's (a folder or Hub id; mean of its last hidden states), then an MLP as for GCN rows |

Rules
1. One template, whose items are texts: `{item.COLUMN:1}`. Same catalog, model, seed and order of batches.
2. Scored by PyTorch in float32 on the validation split, which chooses; --test scores the test split as well.
3. A row is a folder of WORK and is not trained twice.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from judgement import Judgement
from numpy.typing import NDArray
from prompts import reworded, rows_of, scored
from rich.console import Console
from rich.table import Table
from text_embeddings import MeanOfLastHidden
from torch import Tensor, nn
from train import Settings, train

from rexit.bundle import Catalog
from rexit.bundle.files import write_json
from rexit.exporter.model import projectors, vectors
from rexit.exporter.prompt.language import Language

POOLINGS = ("attention", "mean", "sentence")
SHOWN = ("auc", "user_auc", "ndcg@10")


class Mean(projectors.OfText):
    """The mean of a text's token embeddings, of an empty text the learned row, then the linear layer."""

    def forward(self, embeddings: Tensor, present: Tensor) -> Tensor:
        weights = present / present.sum(1, keepdim=True).clamp(min=1)
        mean = (weights[..., None] * embeddings.float()).sum(1)
        out: Tensor = self.outer(torch.where(present.any(1, keepdim=True), mean, self.nothing))
        return out[:, None]


class Sentence(projectors.OfEmbedding):
    """A row of `known` [items, D] to one vector."""

    def __init__(self, known: Tensor, width: int, scale: float) -> None:
        super().__init__(known.shape[1], width, scale)
        self.known = known


def use(pooling: str, sentences: Mapping[str, Tensor]) -> None:
    """From here on texts are pooled so."""
    made, items = projectors._made, vectors.Sources.items

    def other(name: str, kind: Mapping[str, int], width: int, scale: float) -> nn.Module:
        if "count" not in kind or pooling == "attention":
            return made(name, kind, width, scale)
        return Mean(1, width, scale) if pooling == "mean" else Sentence(sentences[name], width, scale)

    def of_items(
        self: vectors.Sources,
        parts: projectors.Projectors,
        embed: vectors.Embed,
        name: str,
        rows: NDArray[np.int64],
        of: Sequence[int | None],
    ) -> Tensor:
        projector = parts[name]
        if not isinstance(projector, Sentence):
            return items(self, parts, embed, name, rows, of)
        out: Tensor = projector(projector.known[torch.from_numpy(rows)])
        return out[:, None]

    projectors._made, vectors.Sources.items = other, of_items  # type: ignore[method-assign]


def encoded(catalog: Catalog, items: Path, encoder: Path) -> dict[str, Tensor]:
    """Each text placeholder's sentence vectors, float32 [items, D]."""
    frame, embed = rows_of(catalog, "item", items), MeanOfLastHidden(encoder, torch.float32, torch.get_num_threads())
    ids = catalog.vector_ids
    assert ids is not None
    columns = {name: name.rpartition(":")[0] for name in ids.tables if name != projectors.GCN}
    return {
        name: torch.from_numpy(embed([text or "unknown" for text in frame[column].fill_null("")]))
        for name, column in columns.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("catalog", type=Path)
    parser.add_argument("template", type=Path)
    for name in ("items", "users", "tokenizer", "encoder", "work"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--pooling", choices=POOLINGS, help="train this one; without it, show what there is")
    parser.add_argument("--test", action="store_true", help="score the test split too, and show it")
    Settings.add_options(parser)
    args = parser.parse_args()
    chosen = Settings.of(args)
    if args.pooling:
        place = args.work / f"{args.pooling}-{chosen.seed}"
        if not (place / "catalog").exists():
            reworded(
                Catalog.open(args.catalog),
                Language.load(str(args.tokenizer), args.template),
                args.users,
                args.items,
                place / "catalog",
            )
        catalog = Catalog.open(place / "catalog")
        use(args.pooling, encoded(catalog, args.items, args.encoder) if args.pooling == "sentence" else {})
        if not (place / "run.json").exists():
            begin = time.monotonic()
            model = train(catalog, chosen)
            for split in ("validation", "test") if args.test else ("validation",):
                np.save(place / f"{split}.npy", scored(model, catalog, split))
            write_json(place / "run.json", {"settings": dataclasses.asdict(chosen), "seconds": time.monotonic() - begin})
    console = Console(width=160, highlight=False)
    for split in ("validation", "test") if args.test else ("validation",):
        console.print(shown(Catalog.open(args.catalog), args.work, split))


def shown(catalog: Catalog, work: Path, split: str) -> Table:
    """The poolings' last exits, means over seeds of scores' log-odds left alone: a row for each run; below, less attention."""
    rows = catalog.split(split)
    judge = Judgement(rows.users, rows.liked)
    made = Table(title=f"{work}: {split}, last exit, 95 % intervals over users; below, less attention", show_lines=True)
    for column in ("pooling", "seed", "minutes", *SHOWN):
        made.add_column(column)
    for path in sorted(work.glob("*/run.json")):
        told, (pooling, _, seed) = json.loads(path.read_text()), path.parent.name.partition("-")
        mine = judge.of(np.load(path.parent / f"{split}.npy")[:, -1])
        cells = [["{:.4f} ({:.4f} to {:.4f})".format(*mine.interval()[metric])] for metric in SHOWN]
        against = work / f"attention-{seed}" / f"{split}.npy"
        if pooling != "attention" and against.exists():
            gain = mine.minus(judge.of(np.load(against)[:, -1])).interval()
            for cell, metric in zip(cells, SHOWN, strict=True):
                cell.append("{:+.4f} ({:+.4f} to {:+.4f})".format(*gain[metric]))
        made.add_row(pooling, seed, f"{told['seconds'] / 60:.1f}", *("\n".join(cell) for cell in cells))
    return made


if __name__ == "__main__":
    main()
