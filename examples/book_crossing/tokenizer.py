"""Trains the small models' tokenizer on the books' and users' texts; an author of two books or more is one token.

    python examples/book_crossing/tokenizer.py DATA OUT

Reads DATA/{items,users}.tsv, writes OUT/tokenizer.json. An LLM brings its own.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import polars as pl

from rexit.exporter.prompt.train_tokenizer import train_bpe
from rexit.scripts import script

TEMPLATE = Path(__file__).parents[1] / "movielens" / "prompt.toml"
BOOKS = 2
VOCABULARY = 4096


@script
def main(data: Path, out: Path) -> None:
    items, users = (
        pl.read_csv(data / f"{name}.tsv", separator="\t", quote_char=None, infer_schema=False) for name in ("items", "users")
    )
    texts = [f" {cell}" for frame in (items, users) for column in frame.columns[1:] for cell in frame[column].drop_nulls()]
    books = items["author"].drop_nulls().value_counts().filter(pl.col("count") >= BOOKS).sort("author")
    authors = [f" {author}" for author in books["author"] if author]
    out.mkdir(parents=True, exist_ok=True)
    train_bpe(texts, TEMPLATE.read_text(), authors, VOCABULARY).save(str(out / "tokenizer.json"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    main(args.data, args.out)
