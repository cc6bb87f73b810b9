"""Sampled negatives for implicit feedback: items that a user had not met, for each item that the user met."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from rexit.errors import InputError


def with_negatives(interactions: pl.DataFrame, items: int, count: int, seed: int, path: Path) -> pl.DataFrame:
    """Adds `count` negatives for every interaction: same user, time and split, not liked.

    Negatives are distinct and uniform among the items that the user had not met by the end of the user's part of the split.
    Items met later are not excluded: otherwise a negative would show that its item is no positive of a later split.

    Args:
        interactions: `user`, `item` (rows), `time`, `liked`, `split`, sorted by (user, time, item).
        items: number of items.
        count: negatives per interaction.
        seed: seed of the sampling.
        path: the interactions file, for messages.

    Returns:
        Interactions and negatives, sorted like `interactions`.

    Raises:
        InputError: a user has fewer than `count` unmet items.
    """
    unmet = _unmet(interactions, items, count, seed, path)
    sampled = interactions.select(pl.all().repeat_by(count).list.explode()).with_columns(
        item=pl.Series(unmet.ravel(), dtype=interactions["item"].dtype), liked=pl.lit(False)
    )
    return pl.concat([interactions, sampled]).sort("user", "time", "item", maintain_order=True)


def _unmet(interactions: pl.DataFrame, items: int, count: int, seed: int, path: Path) -> NDArray[np.int64]:
    """Distinct items that the user of each of n interactions had not met by the end of its split: int64 [n, count]."""
    ending = interactions.select("user", "item", "time", end=pl.col("time").max().over("user", "split"))
    parts = ending.select("user", "end").unique().sort("user", "end").with_row_index("part")
    part = ending.join(parts, on=["user", "end"], how="left", maintain_order="left")["part"].to_numpy().astype(np.int64)
    until = pl.col("time") <= pl.col("end")
    history = parts.join(ending.drop("end"), on="user").filter(until).select("part", "item").unique().sort("part", "item")
    owner, item = history["part"].to_numpy().astype(np.int64), history["item"].to_numpy()
    starts = np.searchsorted(owner, np.arange(len(parts) + 1))
    left = items - np.diff(starts)[part]
    if len(left) and left.min() < count:
        raise InputError(
            f"{path}: a user met all but {left.min()} of {items} items, expected at least {count} others to draw negatives from "
            "(--unrated)"
        )
    rng = np.random.default_rng(seed)
    ranks = np.empty((len(part), 0), np.int64)  # among the items left, ascending
    for n in range(count):
        rank = rng.integers(0, left - n)
        for chosen_ranks in ranks.T:
            rank += rank >= chosen_ranks
        ranks = np.sort(np.column_stack([ranks, rank]), axis=1)
    # The j-th met item (from 0) has item - j unmet items before it: an unmet item of a rank has as many met items before it.
    before = owner * items + (item - (np.arange(len(item)) - starts[owner]))
    skipped = np.searchsorted(before, part[:, None] * items + ranks, "right") - starts[part][:, None]
    chosen: NDArray[np.int64] = ranks + skipped
    return chosen
