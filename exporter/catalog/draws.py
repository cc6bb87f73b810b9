"""Drawn candidates: the rows of slates with `uniform` or `popularity` (`rexit.format.candidates`).

1. Each like gets N items at its time, with its inputs and its split, not liked, with weight 1.
2. They are distinct and unmet by the end of the user's part of that split. Items met later stay possible: otherwise a negative
   would show that its item is no positive of a later split.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from rexit.errors import InputError
from rexit.exporter.catalog.interactions import WEIGHT
from rexit.format.bundle.catalog import SPLITS
from rexit.format.candidates import Candidates, Met, draw_unmet, unmet_counts


def popularity(interactions: pl.DataFrame, items: int) -> NDArray[np.float64]:
    """The number of training interactions of each item, float64 [I]. interactions: `item` and `split`."""
    held_out = pl.col("split").is_in(SPLITS[1:]).fill_null(False)
    return np.bincount(interactions.filter(~held_out)["item"].to_numpy(), minlength=items).astype(np.float64)


def with_draws(
    interactions: pl.DataFrame,
    items: int,
    candidates: Candidates,
    seed: int | Sequence[int],
    path: Path,
    likes: pl.Expr | None = None,
) -> pl.DataFrame:
    """Adds drawn candidates.

    Args:
        interactions: `user`, `item` (rows), `time`, `liked`, `split` and what a draw has in common with its like.
        items: number of items.
        candidates: `uniform` or `popularity`.
        seed: of the draw.
        path: the interactions file, for messages.
        likes: which interactions get candidates; None: all that are liked.

    Returns:
        Interactions and draws, sorted by (user, time, item).

    Raises:
        InputError: a user has too few unmet items.
    """
    weights = popularity(interactions, items) if candidates.kind == "popularity" else np.ones(items)
    timed = interactions.select("user", "item", "time", end=pl.col("time").max().over("user", "split"))
    liked = interactions.select(pl.col("liked") if likes is None else likes).to_series()
    drivers = timed.filter(liked)
    parts = drivers.select("user", "end").unique().sort("user", "end").with_row_index("part")
    owners = drivers.join(parts, on=["user", "end"], how="left", maintain_order="left")["part"].to_numpy().astype(np.int64)
    history = parts.join(timed.drop("end"), on="user").filter(pl.col("time") <= pl.col("end"))
    met = Met.of(history["part"].to_numpy().astype(np.int64), history["item"].to_numpy().astype(np.int64), items)
    left = unmet_counts(met, len(parts), weights)
    if len(left) and left.min() < candidates.count:
        pool = "items" if candidates.kind == "uniform" else "items with a training interaction"
        raise InputError(
            f"{path}: a user met all but {left.min()} of {np.count_nonzero(weights)} {pool}, expected at least "
            f"{candidates.count} others to draw (--candidates {candidates})"
        )
    chosen = draw_unmet(owners, met, weights, candidates.count, seed)
    negatives = interactions.filter(liked).select(pl.all().repeat_by(candidates.count).list.explode())
    negatives = negatives.with_columns(item=pl.Series(chosen.ravel(), dtype=interactions["item"].dtype), liked=pl.lit(False))
    negatives = negatives.with_columns(pl.col(f"^{WEIGHT}$") * 0 + 1)
    return pl.concat([interactions, negatives]).sort("user", "time", "item", maintain_order=True)
