"""Unrated items beside the likes: slates as long as a shop's shelf. Ratings do not show which items a user saw and ignored.

Rules
1. Each like brings N items that its user never rated, at the like's time and in its split, not liked. They are labels of slates
   only: no table, count or history that a prompt reads includes them.
2. They are sampled by popularity (number of ratings), without replacement within a user; a user who rated nearly everything gets
   the remaining items. A uniform sample would be mostly unknown items, which their counts would give away.
3. Ratings do not change.
4. Users and items are sampled in the order of their ids as text, so the result depends on ids, ratings and seed alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from rexit.errors import InputError
from rexit.exporter.catalog.chunks import offsets
from rexit.exporter.catalog.objectives import without_labels


def with_unrated(
    interactions: pl.DataFrame, user_ids: pl.Series, item_ids: pl.Series, per_like: int, seed: int, path: Path
) -> pl.DataFrame:
    """Adds unrated items to all interactions of a catalog.

    Args:
        interactions: `user`, `item` (rows), `time`, `liked`, and whatever else an unrated item has in common with its like.
        user_ids, item_ids: ids by row.
        per_like: unrated items per like.
        seed: seed of the sampling.
        path: the interactions file, for messages.

    Returns:
        Interactions and unrated items, sorted by (user, time, item).

    Raises:
        InputError: every user rated every item.
    """
    unrated = unrated_items(interactions.filter("liked"), interactions, user_ids, item_ids, per_like, seed)
    if unrated.is_empty():
        raise InputError(f"{path}: every user rated every item, so --unrated has nothing to add")
    return pl.concat([interactions, unrated]).sort("user", "time", "item", maintain_order=True)


def unrated_items(
    likes: pl.DataFrame,
    ratings: pl.DataFrame,
    user_ids: pl.Series,
    item_ids: pl.Series,
    per_like: int,
    seed: int | Sequence[int],
    excluded: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """Unrated items for some likes, with the likes' columns.

    Args:
        likes: the likes that get items, as in `with_unrated`.
        ratings: `user` and `item` of all ratings.
        user_ids, item_ids, per_like: see `with_unrated`.
        seed: seed of the sampling.
        excluded: `user` and `item` of further pairs that are not sampled.
    """
    counts = ratings.group_by("item").len()
    counts = counts.with_columns(id=item_ids.cast(pl.String)[counts["item"]]).sort("id")
    items, weights = counts["item"].to_numpy(), np.log(counts["len"].to_numpy())
    places = np.full(len(item_ids), -1)
    places[items] = np.arange(len(items))
    pairs = [frame.select("user", "item") for frame in (ratings, excluded) if frame is not None]
    met = pl.concat(pairs).sort("user")
    starts, met_places = offsets(np.bincount(met["user"].to_numpy(), minlength=len(user_ids))), places[met["item"].to_numpy()]
    random = np.random.default_rng(seed)
    ordered = likes.with_columns(
        user_text=user_ids.cast(pl.String)[likes["user"]], item_text=item_ids.cast(pl.String)[likes["item"]]
    ).sort("user_text", "time", "item_text", maintain_order=True)
    parts = [likes.clear()]
    for (user,), own in ordered.group_by("user", maintain_order=True):
        keys = weights + random.gumbel(size=len(items))  # the items of the largest keys are a sample without replacement
        keys[met_places[starts[user] : starts[user + 1]]] = -np.inf
        count = min(per_like * len(own), int(np.isfinite(keys).sum()))
        chosen = items[random.permutation(np.argsort(-keys)[:count])]
        added = own[np.resize(np.arange(len(own)), count)].with_columns(
            item=pl.Series(chosen, dtype=likes["item"].dtype), liked=pl.lit(False)
        )
        parts.append(without_labels(added.select(likes.columns)))
    return pl.concat(parts)
