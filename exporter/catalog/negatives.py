"""Sampled negatives for implicit feedback: items that a user had not met, for each item that the user met.

Unrated items beside the likes: slates as long as a shop's shelf. Ratings do not show which items a user saw and ignored.

Rules
1. Each like brings N items that its user never rated, at the like's time, not liked. So all splits have the same share of them,
   and a prompt's counts mean the same in training and serving. That holds for the likes of an update, too.
2. They are sampled by popularity (number of ratings), without replacement within a user; a user who rated nearly everything gets
   the remaining items. A uniform sample would be mostly unknown items, which their counts would give away. An update samples by
   its own ratings: so each rating of an item has brought as many samples of it, whenever it came.
3. Ratings do not change.
4. Users and items are sampled in the order of their ids as text, so the result depends on ids, ratings and seed alone.
"""

from __future__ import annotations

from collections.abc import Sequence
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


def with_unrated(
    interactions: pl.DataFrame, user_ids: pl.Series, item_ids: pl.Series, per_like: int, seed: int, path: Path
) -> pl.DataFrame:
    """Appends unrated items to the interactions.

    Args:
        interactions: `user`, `item` (rows), `time`, `liked`, and whatever else an unrated item has in common with its like.
        user_ids, item_ids: ids by row.
        per_like: unrated items per like.
        seed: seed of the sampling.
        path: the interactions file, for messages.

    Raises:
        InputError: every user rated every item.
    """
    popularity = interactions.group_by("item").agg(weight=pl.len().cast(pl.Float64))
    result = unrated_items(popularity, interactions, user_ids, item_ids, per_like, seed, pl.col("liked"))
    if result.is_empty():
        raise InputError(f"{path}: every user rated every item, so --unrated has nothing to add")
    return pl.concat([interactions, result])


def unrated_items(
    popularity: pl.DataFrame,
    users: pl.DataFrame,
    user_ids: pl.Series,
    item_ids: pl.Series,
    per_like: int,
    seed: int | Sequence[int],
    likes: pl.Expr,
) -> pl.DataFrame:
    """Unrated items for some users' likes, with the columns of the interactions.

    Args:
        popularity: `item`, every one that the users met among them, and its `weight`.
        users: all interactions of the users.
        user_ids, item_ids, per_like, seed: see `with_unrated`.
        likes: which of the users' interactions get items.
    """
    popularity = popularity.with_columns(id=item_ids.cast(pl.String)[popularity["item"]]).sort("id")
    items, weights = popularity["item"].to_numpy(), np.log(popularity["weight"].to_numpy())
    places = np.full(len(item_ids), -1)
    places[items] = np.arange(len(items))
    random = np.random.default_rng(seed)
    ordered = users.with_columns(
        user_text=user_ids.cast(pl.String)[users["user"]], item_text=item_ids.cast(pl.String)[users["item"]]
    ).sort("user_text", "time", "item_text", maintain_order=True)
    parts = [users.clear()]
    for _, own in ordered.group_by("user", maintain_order=True):
        own_likes = own.filter(likes)
        keys = weights + random.gumbel(size=len(items))  # the items of the largest keys are a sample without replacement
        keys[places[own["item"].to_numpy()]] = -np.inf
        count = min(per_like * len(own_likes), int(np.isfinite(keys).sum()))
        chosen = items[random.permutation(np.argsort(-keys)[:count])]
        added = own_likes[np.resize(np.arange(len(own_likes)), count)].with_columns(
            item=pl.Series(chosen, dtype=users["item"].dtype), liked=pl.lit(False)
        )
        parts.append(added.select(users.columns))
    return pl.concat(parts)
