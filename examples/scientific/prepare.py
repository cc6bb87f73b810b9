"""Amazon Scientific (J. Ni and others, EMNLP 2019; for research): 8,317 users, 4,344 products, 58,492 purchases in order.

    python examples/scientific/prepare.py OUT --from scientific.zip

The zip has `Scientific.item.json` and `Scientific.inter.json`, as published with CollisionGenRec. Writes

    OUT/items.csv         item_id, title, category (the last one), about (brand and description), text (what an encoder embeds)
    OUT/purchases.csv     user_id, item_id, place

There are no times. `place` counts each user's purchases from the end: all users' last ones are at the same place, so no prompt
knows another user's.
"""

from __future__ import annotations

import argparse
import json
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from rexit.errors import script
from rexit.format.bundle.writer import new_folder

TEXT_WORDS = 40
"""Of what is about a product, in the text that an encoder embeds: the first words say most."""
ITEMS, PURCHASES = "Scientific.item.json", "Scientific.inter.json"


def products(items: Mapping[str, Mapping[str, str]]) -> pl.DataFrame:
    """Returns the table of items. items: the file's, by id."""

    def plain(text: str) -> str:
        return " ".join(text.replace("<", " <").split())

    rows = []
    for number, item in items.items():
        title, description = plain(item["title"]), plain(item["description"])
        category = plain(item["categories"].split(",")[-1])
        about = plain(f"{item['brand']}. {description}")
        rows.append((int(number), title, category, about, f"{title} {category}. {' '.join(about.split()[:TEXT_WORDS])}"))
    return pl.DataFrame(rows, ["item_id", "title", "category", "about", "text"], orient="row").sort("item_id")


def purchases(sequences: Mapping[str, Sequence[int]]) -> pl.DataFrame:
    """Returns the table of interactions. sequences: each user's items, oldest first."""
    last = max(map(len, sequences.values()))
    rows = [(int(user), item, last - len(items) + n) for user, items in sequences.items() for n, item in enumerate(items)]
    return pl.DataFrame(rows, ["user_id", "item_id", "place"], orient="row")


@script
def main(out: Path, source: Path) -> None:
    try:
        with zipfile.ZipFile(source) as archive:
            items, sequences = (json.loads(archive.read(name)) for name in (ITEMS, PURCHASES))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as exc:
        sys.exit(f"prepare: {source}: no zip with {ITEMS} and {PURCHASES}: {exc}")
    tables: dict[str, Any] = {"items.csv": products(items), "purchases.csv": purchases(sequences)}
    with new_folder(out) as folder:
        for name, table in tables.items():
            table.write_csv(folder / name)
    print(f"{out}: {len(items):,} products, {len(sequences):,} users, {len(tables['purchases.csv']):,} purchases")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--from", type=Path, required=True, dest="source", metavar="ZIP", help="the data set's zip")
    args = parser.parse_args()
    main(args.out, args.source)
