"""The slates of a catalog as pairs of texts, for a cross-encoder: what a user bought last, and a product.

    python examples/scientific/pairs.py CATALOG ITEMS OUT [--slates 4000] [--served retrieved:50]

ITEMS is the items.csv of prepare.py. A query is the last six titles before the slate's moment, newest first, twelve words of
each; a document is title, category and 56 words of what is about the product. `score.lookup` is exit zero's log-odds: in training
by the snapshots that training prompts read. A user has a group of its own in each split.

With `--served`, validation and test slates have these candidates in place of the catalog's, the like among them or not: what a
policy is calibrated on. Users and their splits are the same, so that nobody who chose certifies.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from rexit.data.slates import Slate, cut, drawn, spread
from rexit.errors import script
from rexit.exporter.prompt.builder import PromptBuilder, RowSlate
from rexit.exporter.zero import Graph
from rexit.format.bundle import Catalog
from rexit.format.bundle.catalog import SPLITS, ZERO
from rexit.format.bundle.writer import new_folder
from rexit.format.candidates import Candidates
from rexit.format.ids import Id
from rexit.format.request import Request

TITLES, TITLE_WORDS, ABOUT_WORDS = 6, 12, 56
LEAST_BOUGHT = 2
"""In training: a query without titles teaches nothing, and every validation query has three."""


class Texts:
    """The texts of a catalog's products and users. items: the table of prepare.py."""

    def __init__(self, catalog: Catalog, items: Path) -> None:
        self._catalog = catalog
        rows = {row["item_id"]: row for row in pl.read_csv(items).iter_rows(named=True)}
        ids = catalog.items.take(np.arange(len(catalog.items)))
        self._titles = [_words(rows[item]["title"], TITLE_WORDS) for item in ids]
        self._documents = [
            f"{rows[i]['title']} {rows[i]['category']}. {_words(rows[i]['about'] or '', ABOUT_WORDS)}" for i in ids
        ]

    def history(self, slate: Slate) -> list[int]:
        """Returns the rows of the items that the user bought before the slate's moment, oldest first."""
        [row], table = self._catalog.users.rows([slate.user]), self._catalog.user_table
        begin, end = table["history_offsets"][row : row + 2]
        known = table["history_times"][begin:end] < slate.as_of
        return list(map(int, table["history_items"][begin:end][known]))

    def rows(self, slates: Sequence[Slate], split: str, scores: Sequence[Sequence[float]]) -> Iterator[dict[str, Any]]:
        """Yields the rows of a file of slates. scores: exit zero's log-odds of each slate."""
        for slate, of_slate in zip(slates, scores, strict=True):
            latest = self.history(slate)[: -TITLES - 1 : -1]
            yield {
                "group": f"{split}-{slate.user}",
                "split": split,
                "query": "; ".join(self._titles[item] for item in latest),
                "candidates": [self._documents[row] for row in self._catalog.items.rows(slate.items)],
                "label": list(map(int, slate.liked)),
                "score.lookup": list(map(float, of_slate)),
            }


def scores_of(catalog: Catalog, slates: Sequence[Slate], split: str) -> list[list[float]]:
    """Returns exit zero's log-odds of each slate of a split."""
    graph, builder = Graph(catalog.path / ZERO, len(catalog.numbers)), PromptBuilder.of(catalog, split)
    scores = []
    for slate in slates:
        rows = RowSlate(catalog.users.row(slate.user), catalog.items.rows(slate.items), slate.as_of)
        scores.append(graph.log_odds(builder.slate_numbers([rows])).tolist())
    return scores


def slates_of(catalog: Catalog, split: str, candidates: Candidates) -> list[Slate]:
    """Returns a slate with other candidates than the catalog's for every user with a like in the split."""
    builder = PromptBuilder(catalog)

    def retrieve(request: Request) -> list[Id]:
        assert request.user is not None and request.retrieve is not None
        slate = RowSlate(catalog.users.row(request.user), (), request.as_of)
        return catalog.items.take(next(builder.retrieve([slate], request.retrieve)))

    return drawn(catalog, split, candidates, retrieve=retrieve)


def _words(text: str, count: int) -> str:
    return " ".join(text.split()[:count])


@script
def main(args: argparse.Namespace) -> None:
    catalog = Catalog.open(args.catalog)
    texts = Texts(catalog, args.items)
    with new_folder(args.out) as work, (work / "slates.jsonl").open("w", encoding="utf-8") as file:
        for split in SPLITS:
            slates = cut(catalog, split)
            if split == "train":
                slates = [slate for slate in slates if slate.liked.any() and len(texts.history(slate)) >= LEAST_BOUGHT]
            slates = spread(slates, args.slates)
            if args.served and split != "train":
                served = {slate.user: slate for slate in slates_of(catalog, split, args.served)}
                slates = [served.get(slate.user, slate) for slate in slates]
            for row in texts.rows(slates, split, scores_of(catalog, slates, split)):
                file.write(json.dumps(row) + "\n")
            print(f"{split}: {len(slates):,} slates")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("catalog", type=Path)
    parser.add_argument("items", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--slates", type=int, default=4000, help="most of a split (4000)")
    parser.add_argument("--served", type=Candidates.parse, help="candidates of a service, e.g. retrieved:50")
    main(parser.parse_args())
