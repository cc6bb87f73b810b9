"""Fetches BookCrossing (C.-N. Ziegler and others, WWW 2005; free for research with acknowledgement) as `rexit index` reads it.

    python examples/book_crossing/fetch.py OUT [--from book_crossing.zip]

Writes OUT/{interactions,items,users}.tsv: 62,656 ratings of 14,684 books by 1,295 users, as A. Fortes reduced them. The data have
no times. `timestamp` is the place in a seeded random order of all ratings, so a split by time is random, and what is visible at a
moment is a random part of all ratings.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import sys
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import numpy as np
import polars as pl

from rexit.errors import script
from rexit.format.bundle.writer import new_folder

SOURCE = (
    "https://raw.githubusercontent.com/caserec/Datasets-for-Recommender-Systems/82b08c787a6b50d78129b9df842285b89bc05b85/"
    "Processed%20Datasets/BookCrossing/book_crossing.zip"
)
SHA256 = "a796eb89e3200a91eb48161079a9abbba0a8e89e1df27bfbd63d8f6b2f7927d8"
SEED = 0


def archive(source: Path | None) -> bytes:
    """Returns the zip file, from `source` or from the network."""
    try:
        if source is not None:
            data = source.read_bytes()
        else:
            with urllib.request.urlopen(SOURCE, timeout=60) as answer:
                data = answer.read()
    except urllib.error.URLError as error:
        sys.exit(f"fetch: {SOURCE}: {error.reason}; give a copy with --from FILE")
    except OSError as error:
        sys.exit(f"fetch: {source or SOURCE}: {error.strerror or error}")
    if (digest := hashlib.sha256(data).hexdigest()) != SHA256:
        sys.exit(f"fetch: {source or SOURCE} has SHA-256 {digest[:12]}…, expected {SHA256[:12]}…")
    return data


def table(files: zipfile.ZipFile, name: str, columns: int) -> pl.DataFrame:
    """Returns the first `columns` columns. In later ones `&amp` is followed by a tab, which splits a field."""
    text = files.read(f"book_crossing/{name}").decode("utf-8", "replace")
    rows = [line.split("\t")[:columns] for line in io.StringIO(text, newline="\n").read().split("\n") if line]
    return pl.DataFrame(rows[1:], schema=[name.strip() for name in rows[0]], orient="row").with_columns(
        pl.all().str.strip_chars()
    )


@script
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--from", dest="source", type=Path, metavar="FILE", help="a copy of book_crossing.zip")
    args = parser.parse_args()
    with zipfile.ZipFile(io.BytesIO(archive(args.source))) as files:
        ratings = table(files, "book_ratings.dat", 3)
        items = table(files, "items_info.dat", 5)
        users = table(files, "users_info.dat", 3)
    times = pl.Series("timestamp", np.random.default_rng(SEED).permutation(len(ratings)))
    ratings = ratings.rename({"user": "user_id", "item": "item_id"}).with_columns(times)
    items = items.select(
        item_id="Book_ID", title="Book-Title", author="Book-Author", year=pl.col("Year-Of-Publication").replace("0", "")
    )
    users = users.select(user_id="User-ID", location="Location", age=pl.col("Age"))
    with new_folder(args.out) as out:
        for name, frame in (("interactions", ratings), ("items", items), ("users", users)):
            frame.write_csv(out / f"{name}.tsv", separator="\t", quote_style="never")


if __name__ == "__main__":
    main()
