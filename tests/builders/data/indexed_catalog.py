"""A catalog of a few kilobytes, made by the index itself from 12 users, 30 items and a tokenizer of bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from rexit.exporter.index import build_catalog
from rexit.exporter.options import IndexOptions, LightGCNOptions

USERS, ITEMS, PER_USER = 12, 30, 20
LABELS = {"no": ord("n") - 32, "yes": ord("y") - 32}

_TEMPLATE = """
prompt = \"\"\"{user.like_rate}|{history.recent:3}|{item.title} {similar_verdict:2}:\"\"\"
entry = "{item.title}{verdict},"
[zero]
inputs = []
[labels]
yes = "y"
no = "n"
[words]
liked = "+"
disliked = "-"
unseen = "?"
missing = "!"
empty = "0"
"""

WITH_INPUTS = (
    _TEMPLATE.replace("{history.recent:3}|", "{history.recent:3}@{input.device}? {input.query}|").replace(
        " {similar", "~{input.hour}/{input.note} {similar"
    )
    + """
[input.hour]
bins = [0, 5, 12, 18]
words = ["a", "b", "c"]
missing = "!"
[input.query]
max_tokens = 10
[input.note]
max_tokens = 3
missing = "-"
"""
)
"""With inputs: a value and a text at the end of the prefix, bins and a text behind the target's title. 18 and 19 are outside the
hour's bins."""
DEVICES = ("tv", "phone", "web")
QUERIES = ("red", "blue sky", "g")


def moment(time: int) -> tuple[str, int, str, str]:
    """Device, hour, query and note of a user's interaction, from 0."""
    return DEVICES[time // 3 % 3], time, QUERIES[time // 4 % 3], "" if time // 2 % 2 else f"n{time // 4}"


LOOK = 5
"""Numbers in the column `look` of the items' file."""


def byte_tokenizer() -> Tokenizer:
    """One token per letter: printable ASCII."""
    vocabulary = {chr(n): n - 32 for n in range(32, 127)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=" "))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def look(item: int) -> str:
    """What an encoder might have made of an item; of one in ten nothing."""
    numbers = np.random.default_rng(item).normal(size=LOOK)
    return "" if item % 10 == 3 else " ".join(f"{number:.4f}" for number in numbers)


def write_indexed_catalog(folder: Path, users: int = USERS, taste: bool = False, template: str = _TEMPLATE) -> Path:
    """Writes `folder/catalog`, with its sources beside it.

    Ratings are random. With `taste` all users like the films with even numbers, and titles show which they are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    lines = ["user_id,item_id,rating,timestamp,device,hour,query,note"]
    for user in range(users):
        for time, item in enumerate(random.permutation(ITEMS)[:PER_USER]):
            rating = 5 - 4 * (item % 2) if taste else random.integers(1, 6)
            lines.append(",".join(map(str, (100 + user, 1000 + item, rating, 10 * time, *moment(time)))))
    (folder / "interactions.csv").write_text("\n".join(lines))
    names = [("xxxxxx", "......")[item % 2] if taste else f"Film {'abcdefg'[: 1 + item % 7]}" for item in range(ITEMS)]
    rows = [f"{1000 + item},{name},{look(1000 + item)}" for item, name in enumerate(names)]
    (folder / "items.csv").write_text("\n".join(["item_id,title,look:float_seq", *rows]))
    (folder / "prompt.toml").write_text(template)
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    build_catalog(
        folder / "interactions.csv",
        folder / "items.csv",
        str(folder / "tokenizer.json"),
        folder / "prompt.toml",
        folder / "catalog",
        options=IndexOptions(neighbours=2, lightgcn=LightGCNOptions(dim=8, epochs=2)),
    )
    return folder / "catalog"
