"""Sampled negatives for implicit feedback: items that a user had not met, against each item that they did."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from rexit.errors import InputError


def with_negatives(interactions: pl.DataFrame, items: int, each: int, seed: int, path: Path) -> pl.DataFrame:
    """The interactions with `each` negatives for every one: of its user, time and split, not liked.

    `interactions`: `user`, `item` (rows), `time`, `liked`, `split`, sorted by (user, time, item), and so is the result. Negatives
    are drawn uniformly from the items that the user had not met by the end of their part of that split, each once for the same
    positive. Items met later are not left out: a negative would tell that its item is no positive of a later split. Raises
    InputError naming `path` for a user who met so many that fewer than `each` are left.
    """
    drawn = _unmet(interactions, items, each, seed, path)
    sampled = interactions.select(pl.all().repeat_by(each).list.explode()).with_columns(
        item=pl.Series(drawn.ravel(), dtype=interactions["item"].dtype), liked=pl.lit(False)
    )
    return pl.concat([interactions, sampled]).sort("user", "time", "item", maintain_order=True)


def _unmet(interactions: pl.DataFrame, items: int, each: int, seed: int, path: Path) -> NDArray[np.int64]:
    """For each of n interactions so many different items that its user had not met by the end of its split: [n, each]."""
    ending = interactions.select("user", "item", "time", end=pl.col("time").max().over("user", "split"))
    parts = ending.select("user", "end").unique().sort("user", "end").with_row_index("part")
    part = ending.join(parts, on=["user", "end"], how="left", maintain_order="left")["part"].to_numpy().astype(np.int64)
    until = pl.col("time") <= pl.col("end")
    met = parts.join(ending.drop("end"), on="user").filter(until).select("part", "item").unique().sort("part", "item")
    owner, item = met["part"].to_numpy().astype(np.int64), met["item"].to_numpy()
    starts = np.searchsorted(owner, np.arange(len(parts) + 1))
    left = items - np.diff(starts)[part]
    if len(left) and left.min() < each:
        raise InputError(
            f"{path}: a user met all but {left.min()} of {items} items, expected at least {each} others to draw negatives from "
            "(--implicit-negatives)"
        )
    rng = np.random.default_rng(seed)
    ranks = np.empty((len(part), 0), np.int64)  # among the items left, ascending
    for n in range(each):
        rank = rng.integers(0, left - n)
        for taken in ranks.T:
            rank += rank >= taken
        ranks = np.sort(np.column_stack([ranks, rank]), axis=1)
    # The j-th item met (from 0) has item - j unmet ones before it: so many items are met before the unmet one of a rank.
    before = owner * items + (item - (np.arange(len(item)) - starts[owner]))
    skipped = np.searchsorted(before, part[:, None] * items + ranks, "right") - starts[part][:, None]
    unmet: NDArray[np.int64] = ranks + skipped
    return unmet
