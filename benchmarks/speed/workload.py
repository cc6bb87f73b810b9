"""Prompts of known lengths, and the catalog they come from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SIX_EXITS = (5, 10, 15, 20, 25, 30)
CANDIDATE = 12
EACH = 20
"""Interactions of each user."""


@dataclass(frozen=True)
class Lengths:
    """Numbers of users, items and tokens: user u has a prefix of `prefixes[u % len(prefixes)]` tokens."""

    users: int
    items: int
    prefixes: Sequence[int]


def one_token_words(tokenizer: Path) -> list[str]:
    """Returns English words that are one token each of a byte-level BPE, also after a space, so that texts have a known
    length."""
    vocabulary = json.loads(tokenizer.read_text())["model"]["vocab"]
    words = (w[1:] for w in vocabulary if w[0] == "Ġ" and w[1:].isascii() and w[1:].isalpha() and w[1:].islower())
    return sorted(word for word in words if len(word) > 3)


def catalog_of_fixed_lengths(folder: Path, checkpoint: Path, lengths: Lengths) -> Path:
    """Returns a catalog of random words and ratings, with prefixes as long as `lengths` says and candidates of CANDIDATE
    tokens."""
    out = folder / "catalog"
    if not (out / "catalog.json").exists():
        from rexit.exporter.index import build_catalog
        from rexit.exporter.options import IndexOptions, LightGCNOptions

        random, words = np.random.default_rng(0), one_token_words(checkpoint / "tokenizer.json")

        def text(count: int) -> str:
            return " ".join(random.choice(words, count))

        rows = ["user_id,item_id,rating,timestamp"]
        for user in range(lengths.users):
            rows += [
                f"{user},{item},{random.integers(1, 6)},{n}" for n, item in enumerate(random.permutation(lengths.items)[:EACH])
            ]
        sizes = [lengths.prefixes[user % len(lengths.prefixes)] for user in range(lengths.users)]
        (folder / "interactions.csv").write_text("\n".join(rows))
        (folder / "users.csv").write_text("\n".join(["user_id,text", *(f"{n},{text(size)}" for n, size in enumerate(sizes))]))
        (folder / "items.csv").write_text("\n".join(["item_id,title", *(f"{n},{text(CANDIDATE)}" for n in range(lengths.items))]))
        (folder / "prompt.toml").write_text(
            'prompt = " {user.text} {item.title}"\n[zero]\ninputs = []\n[labels]\nyes = " yes"\nno = " no"\n'
        )
        build_catalog(
            folder / "interactions.csv",
            folder / "items.csv",
            str(checkpoint / "tokenizer.json"),
            folder / "prompt.toml",
            out,
            users=folder / "users.csv",
            options=IndexOptions(neighbours=2, lightgcn=LightGCNOptions(dim=8, epochs=1)),
        )
    return out
