"""What LightGCN's start is worth: recall@20 on validation and test likes, from random weights and from singular vectors.

    python benchmarks/retriever_start.py INTERACTIONS ITEMS USERS --positive-at 4 [--sizes 0.05 0.2 0.5] [--seeds 4]

Validation chooses the epoch, as in `rexit index`. For test likes a user is folded in from the likes of train and validation.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from rich.box import MARKDOWN
from rich.console import Console
from rich.progress import track
from rich.table import Table

from rexit.bundle.catalog import SPLITS
from rexit.exporter import index
from rexit.exporter.catalog import lightgcn, spectral
from rexit.exporter.catalog.propagation import Graph, product
from rexit.exporter.catalog.recall import Recall
from rexit.exporter.options import IndexOptions, LightGCNOptions

RANDOM = 0.0  # a size
TRAIN, VALIDATION, TEST = SPLITS


def nothing(graph: Graph, dim: int, generator: torch.Generator) -> torch.Tensor:
    """No column of the weights is overwritten: they stay as torch-geometric draws them."""
    return torch.empty(len(graph.user_degree) + len(graph.item_degree), 0)


class Judge:
    """Recall@20 on test likes."""

    def __init__(self, data: index._Data) -> None:
        self._judge = Recall(
            self._edges(data, [TRAIN, VALIDATION], True, False), self._edges(data, [TEST], True), len(data.items)
        )
        known = self._edges(data, [TRAIN, VALIDATION], True)
        self._known = lightgcn._liked(*known, len(data.users), len(data.items), self._judge.users)

    @staticmethod
    def _edges(data: index._Data, splits: list[str], *liked: bool) -> lightgcn.Edges:
        rows = data.interactions
        part = rows.filter(rows["split"].is_in(splits) & rows["liked"].is_in(liked))
        return part["user"].to_numpy(), part["item"].to_numpy()

    def __call__(self, made: lightgcn.Retriever) -> float:
        users = product(self._known, torch.from_numpy(made.fold_in))
        recall = self._judge.at(lightgcn.K, lambda rows: users[rows] @ torch.from_numpy(made.items).T)
        assert recall is not None
        return recall


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("interactions", "items", "users"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--positive-at", type=float, required=True)
    parser.add_argument("--sizes", type=float, nargs="+", default=[0.05, 0.1, 0.2, 0.3, 0.5, 1.0])
    parser.add_argument("--seeds", type=int, default=4)
    args = parser.parse_args()
    data = index._read(args.interactions, args.items, args.users, IndexOptions(positive_at=args.positive_at))
    likes, judge = index._likes(data), Judge(data)
    table = Table("size", "validation", "test", "epochs", box=MARKDOWN)
    for size in track([RANDOM, *args.sizes], "starts", console=Console(stderr=True)):
        start = patch.object(spectral, "SIZE", size) if size else patch.object(lightgcn, "leading", nothing)
        with start:
            made = [lightgcn.train(likes, LightGCNOptions(seed=seed)) for seed in range(args.seeds)]
        validation, test, epochs = (
            np.array([one.recall for one in made]),
            np.array([judge(one) for one in made]),
            [one.epochs for one in made],
        )
        spread = (f"{recall.mean():.4f} ({recall.min():.4f} to {recall.max():.4f})" for recall in (validation, test))
        table.add_row(str(size) if size else "random", *spread, ", ".join(map(str, epochs)))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
