"""A data set of two tastes, small enough to index in a second: even users like even items, odd users odd ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from rexit.exporter.options import IndexOptions, LightGCNOptions
from rexit.format.bundle import Catalog

USERS, ITEMS, EACH = 24, 40, 20
LATE = 10_000  # the test split's interactions (the last two of each user) are at this time or later, all others before

# One placeholder between bars each, so that a test can tell their texts apart.
TEMPLATE = """
prompt = "{user.job}|{user.like_rate}|{user.count}|{history.recent:4}|{similar_liked:6}|\
{item.title} of {item.year}|{item.like_rate}|{item.count}|{similar_verdict:5}|{history.nearest:3}|\
{similar_like_rate:5}|{nearest_like_rate:3}|Answer:"
entry = " {item.title}{verdict};"
[entries]
similar = " {item.title};"
[zero]
inputs = []
[labels]
yes = " yes"
no = " no"
[words]
liked = " yes"
disliked = " no"
[bins]
like_rate = 10
count = 6
"""


def interactions(seed: int = 0) -> pl.DataFrame:
    """`user_id`, `item_id`, `rating`, `timestamp`. Times tie between users, and twice within one."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(USERS):
        for n, item in enumerate(rng.permutation(ITEMS)[:EACH]):
            fits = (item + user) % 2 == 0
            rating = int(rng.integers(3, 6)) if fits else int(rng.integers(1, 5))
            time = LATE + n if n >= EACH - 2 else 100 + 10 * (n // 2 if n < 4 else n)
            rows.append((user + 1, int(item) + 1, rating, time))
    rng.shuffle(rows)
    return pl.DataFrame(rows, ["user_id", "item_id", "rating", "timestamp"], orient="row")


def users() -> pl.DataFrame:
    return pl.DataFrame({"user_id": range(1, USERS + 1), "job": [("baker", "pilot", "nurse")[u % 3] for u in range(USERS)]})


def items() -> pl.DataFrame:
    years = [None if i % 7 == 3 else 1950 + i for i in range(ITEMS)]
    return pl.DataFrame({"item_id": range(1, ITEMS + 1), "title": [f"Film {i + 1}" for i in range(ITEMS)], "year": years})


def tokenizer(folder: Path) -> Path:
    """A byte-level BPE with one special token, written to FOLDER/tokenizer.json; decoding gives the text back exactly."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    bpe.train_from_iterator([" yes no Film Answer: 10% unknown none"] * 20, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    bpe.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def write(folder: Path, template: str = TEMPLATE, rated: pl.DataFrame | None = None) -> Path:
    """ratings.csv, items.csv, users.csv, tok/tokenizer.json and prompt.toml in `folder`, which is returned."""
    folder.mkdir(parents=True, exist_ok=True)
    (interactions() if rated is None else rated).write_csv(folder / "ratings.csv")
    items().write_csv(folder / "items.csv")
    users().write_csv(folder / "users.csv")
    tokenizer(folder / "tok")
    (folder / "prompt.toml").write_text(template)
    return folder


def index(folder: Path, template: str = TEMPLATE, rated: pl.DataFrame | None = None, epochs: int = 2) -> Catalog:
    """The catalog of what `write` writes."""
    return index_files(write(folder, template, rated), options(epochs))


def options(epochs: int = 2) -> IndexOptions:
    return IndexOptions(neighbours=6, lightgcn=LightGCNOptions(dim=8, layers=2, epochs=epochs))


def index_files(folder: Path, chosen: IndexOptions | None = None) -> Catalog:
    """The catalog of the files in `folder`, in FOLDER/catalog. chosen: by default two epochs."""
    from rexit.exporter.index import build_catalog

    files = (folder / "ratings.csv", folder / "items.csv", str(folder / "tok"), folder / "prompt.toml", folder / "catalog")
    build_catalog(*files, chosen or options(), users=folder / "users.csv")
    return Catalog.open(folder / "catalog")
