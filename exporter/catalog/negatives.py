"""Sampled negatives for implicit feedback: items that a user never met, against each item that they did."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from rexit.errors import InputError


def with_negatives(interactions: pl.DataFrame, items: int, each: int, seed: int, path: Path) -> pl.DataFrame:
    """The interactions with `each` negatives for every one: of its user, time and split, not liked.

    `interactions`: `user`, `item` (rows), `time`, `liked`, `split`, sorted by (user, time, item), and so is the result. Negatives
    are drawn uniformly from the items that the user meets at no time at all, each once for the same positive. Raises InputError
    naming `path` for a user who met so many that fewer than `each` are left.
    """
    drawn = _unmet(interactions, interactions["user"].to_numpy(), items, each, seed, path)
    sampled = interactions.select(pl.all().repeat_by(each).list.explode()).with_columns(
        item=pl.Series(drawn.ravel(), dtype=interactions["item"].dtype), liked=pl.lit(False)
    )
    return pl.concat([interactions, sampled]).sort("user", "time", "item", maintain_order=True)


def _unmet(
    interactions: pl.DataFrame, users: NDArray[np.int64], items: int, each: int, seed: int, path: Path
) -> NDArray[np.int64]:
    """For each of `users` (rows, [n]) as many different items they never met: [n, each]."""
    met = interactions.select("user", "item").unique().sort("user", "item")
    owner, item = met["user"].to_numpy(), met["item"].to_numpy()
    starts = np.searchsorted(owner, np.arange(int(owner[-1]) + 2))
    left = items - np.diff(starts)[users]
    if len(left) and left.min() < each:
        raise InputError(
            f"{path}: a user met all but {left.min()} of {items} items, expected at least {each} others to draw negatives from "
            "(--implicit-negatives)"
        )
    rng = np.random.default_rng(seed)
    ranks = np.empty((len(users), 0), np.int64)  # among the items left, ascending
    for n in range(each):
        rank = rng.integers(0, left - n)
        for taken in ranks.T:
            rank += rank >= taken
        ranks = np.sort(np.column_stack([ranks, rank]), axis=1)
    # The j-th item met (from 0) has item - j unmet ones before it: so many items are met before the unmet one of a rank.
    before = owner * items + (item - (np.arange(len(item)) - starts[owner]))
    skipped = np.searchsorted(before, users[:, None] * items + ranks, "right") - starts[users][:, None]
    unmet: NDArray[np.int64] = ranks + skipped
    return unmet
