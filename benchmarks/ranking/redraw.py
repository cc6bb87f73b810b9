"""A catalog whose unrated films are drawn by another seed: ids, embeddings, prompts and ratings stay.

    python benchmarks/ranking/redraw.py CATALOG --data DATA --tokenizer TOKENIZER --template TEMPLATE --draw 1 --out OTHER
    rexit export CHECKPOINT --catalog OTHER --accept-catalog …

CATALOG is what `rexit index --positive-at 4 --unrated 9` made of ml-100k.inter, .item and .user in DATA; its --seed would change
LightGCN's embeddings too. So a model that was trained on CATALOG can be judged on other draws. Fails if the embeddings came out
otherwise: LightGCN gives the same numbers only with as many threads.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from rexit.bundle import Catalog
from rexit.errors import InputError
from rexit.exporter.index import build_catalog
from rexit.exporter.options import IndexOptions, LightGCNOptions
from rexit.scripts import script


@script
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("catalog", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--template", type=Path, required=True)
    parser.add_argument("--draw", type=int, required=True, help="seed of the unrated films")
    parser.add_argument("--unrated", type=int, default=9, help="beside each like (9)")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    interactions, items, users = (args.data / f"ml-100k.{name}" for name in ("inter", "item", "user"))
    options = IndexOptions(positive_at=4.0, unrated=args.unrated, seed=args.draw, lightgcn=LightGCNOptions(seed=0))
    build_catalog(interactions, items, args.tokenizer, args.template, args.out, options, users=users)
    before, after = (Catalog.open(path) for path in (args.catalog, args.out))
    for table in ("user_table", "item_table"):
        if not np.array_equal(getattr(before, table)["embeddings"], getattr(after, table)["embeddings"]):
            raise InputError(
                f"{args.out}: other embeddings than {args.catalog}, of {table}: expected the same, run with as many threads"
            )


if __name__ == "__main__":
    main()
