"""BookCrossing as `rexit index` reads it: 62,656 ratings of 14,684 books by 1,295 users. The data have no times.

    python benchmarks/book_crossing.py book_crossing.zip OUT

Writes OUT/{interactions,items,users}.tsv and OUT/tokenizer.json. `timestamp` is the place in one seeded random order of all
ratings, so that a split by time is a random one and what is visible at a moment is a random part of everything.
"""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path

import numpy as np
import polars as pl

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "movielens"))
from tokenizer import TEMPLATE, trained

SEED = 0
BOOKS = 2
"""An author of so many books is one token."""


def table(archive: zipfile.ZipFile, name: str, columns: int) -> pl.DataFrame:
    """The first `columns` columns: behind them `&amp` is followed by a tab and splits a field."""
    text = archive.read(f"book_crossing/{name}").decode("utf-8", "replace")
    rows = [line.split("\t")[:columns] for line in io.StringIO(text, newline="\n").read().split("\n") if line]
    return pl.DataFrame(rows[1:], schema=[name.strip() for name in rows[0]], orient="row").with_columns(
        pl.all().str.strip_chars()
    )


def main(source: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(source) as archive:
        ratings = table(archive, "book_ratings.dat", 3)
        items = table(archive, "items_info.dat", 5)
        users = table(archive, "users_info.dat", 3)
    times = pl.Series("timestamp", np.random.default_rng(SEED).permutation(len(ratings)))
    ratings = ratings.rename({"user": "user_id", "item": "item_id"}).with_columns(times)
    items = items.select(
        item_id="Book_ID", title="Book-Title", author="Book-Author", year=pl.col("Year-Of-Publication").replace("0", "")
    )
    users = users.select(user_id="User-ID", location="Location", age=pl.col("Age"))
    for name, frame in (("interactions", ratings), ("items", items), ("users", users)):
        frame.write_csv(out / f"{name}.tsv", separator="\t", quote_style="never")
    texts = [f" {cell}" for frame in (items, users) for column in frame.columns[1:] for cell in frame[column].drop_nulls()]
    books = items["author"].drop_nulls().value_counts().filter(pl.col("count") >= BOOKS).sort("author")
    authors = [f" {author}" for author in books["author"] if author]
    trained(texts, TEMPLATE.read_text(), authors, 4096).save(str(out / "tokenizer.json"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
