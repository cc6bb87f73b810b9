"""Long slates: each like among items that its user never rated, as they would stand on a shop's shelf.

    python benchmarks/ranking/unrated.py RATINGS OUT --positive-at 4
    rexit index --interactions OUT --positive-at 4 …

Ratings do not say what was shown and left alone: a test split has some ten items of a user, half of them liked. Here every like
brings `--each` items that its user rated at no time, at the like's own time and with a rating of 0. So the splits have the same
share of them, and what a prompt says of the past means in serving what it meant in training.

Rules
1. Drawn by popularity (number of ratings), without replacement within a user; a user who rated nearly everything gets what is
   left. Drawn evenly, most would be items that hardly anybody knows, and their count would give them away.
2. Ratings stay as they are; those below `--positive-at` are no likes, as before.
3. RATINGS is any table that `rexit index` reads, with columns user_id, item_id, rating and timestamp; OUT is tab-separated.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import polars as pl

from rexit.bundle.files import write_file
from rexit.errors import InputError
from rexit.exporter.catalog.interactions import read_table
from rexit.scripts import script

COLUMNS = ["user_id", "item_id", "rating", "timestamp"]


def read(path: Path) -> pl.DataFrame:
    """Ids as they stand, rating float64, timestamp int64. Raises InputError where that is not to be had."""
    table = read_table(path, COLUMNS)
    if missing := [name for name in COLUMNS if name not in table.columns]:
        raise InputError(f"{path}: no column {missing[0]!r}, expected {', '.join(COLUMNS)}")
    return table.select(COLUMNS).cast({"rating": pl.Float64, "timestamp": pl.Float64}).cast({"timestamp": pl.Int64})


def drawn(ratings: pl.DataFrame, positive_at: float, each: int, rng: np.random.Generator) -> pl.DataFrame:
    """The rows to add: `each` for a like, as far as there are items that the user never rated."""
    counts = ratings.group_by("item_id").len().sort("item_id")
    items, weights = counts["item_id"].to_numpy(), np.log(counts["len"].to_numpy())
    rows = [ratings.clear()]
    for (user,), own in ratings.sort("user_id", "timestamp", "item_id").group_by("user_id", maintain_order=True):
        moments = own.filter(pl.col("rating") >= positive_at)["timestamp"].to_numpy()
        keys = weights + rng.gumbel(size=len(items))  # the items of the largest are a sample without replacement
        keys[np.isin(items, own["item_id"].to_numpy())] = -np.inf
        most = min(each * len(moments), int(np.isfinite(keys).sum()))
        chosen = rng.permutation(np.argsort(-keys)[:most])
        added = {"user_id": [user] * most, "item_id": items[chosen].tolist(), "rating": np.zeros(most)}
        rows.append(
            pl.DataFrame({**added, "timestamp": np.resize(moments, most)}, schema=ratings.schema)
        )  # one like after another
    return pl.concat(rows)


@script
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ratings", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--positive-at", type=float, required=True, help="the least rating that is a like")
    parser.add_argument("--each", type=int, default=9, help="items for each like (9)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    ratings = read(args.ratings)
    added = drawn(ratings, args.positive_at, args.each, np.random.default_rng(args.seed))
    write_file(args.out, pl.concat([ratings, added]).write_csv(separator="\t"))
    likes = int((ratings["rating"] >= args.positive_at).sum())
    print(f"{len(ratings)} ratings, {likes} of them likes; {len(added)} items added that their users never rated")


if __name__ == "__main__":
    main()
