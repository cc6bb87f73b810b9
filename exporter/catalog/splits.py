"""Assigns every interaction to one split: `train`, `validation` or `test`.

Rules
1. Order: user row, time, item row, then the order of the file.
2. `user:A,B`: of a user's n interactions the last floor((1 - B) n) are `test`, the floor((B - A) n) before them `validation`, the
   rest training. So with 0.8,0.9 a user with fewer than ten is all training.
3. `time:A,B`: number all M interactions by time from 0. Those before the time of number floor(A M) are training, those from the
   time of number floor(B M) on are `test`, the others `validation`. Interactions of the same time are on the same side.
4. `leave-last:V,T`: of each user the last T are `test`, the V before them `validation`, the rest training. A user with no more
   than V + T is all training.
5. A split column holds `train`, `validation` (or `valid`) or `test`.

Sampled negatives for implicit feedback: items that a user had not met, for each item that the user met.

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

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from rexit.bundle.catalog import SPLITS
from rexit.errors import InputError
from rexit.exporter.catalog.catalog_files import by_range
from rexit.exporter.options import IndexOptions

TRAIN, VALIDATION, TEST = SPLITS
DEFAULT = "user:0.8,0.9"
_FORMS = "`user:A,B` or `time:A,B` with shares 0 < A < B < 1, or `leave-last:V,T` with whole numbers from 1 to 1000"
_FINEST = 10**6  # largest denominator of a share: numerator times interactions must fit an int64


@dataclass(frozen=True)
class Rule:
    """A kind of rule and its two numbers: shares, or the counts of `leave-last`."""

    kind: str
    first: Fraction
    second: Fraction

    @classmethod
    def parse(cls, text: str) -> Rule:
        """Raises InputError."""
        kind, _, rest = text.partition(":")
        if match := re.fullmatch(r"(\d*\.?\d+),(\d*\.?\d+)", rest, re.ASCII):
            first, second = (Fraction(number).limit_denominator(_FINEST) for number in match.groups())
            if kind in ("user", "time") and 0 < first < second < 1:
                return cls(kind, first, second)
            if kind == "leave-last" and all(1 <= n <= 1000 and n.denominator == 1 for n in (first, second)):
                return cls(kind, first, second)
        raise InputError(f"split {text!r}, expected {_FORMS}")


def assign(interactions: pl.DataFrame, options: IndexOptions, path: Path) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Sorts interactions and assigns splits.

    Args:
        interactions: `user` and `item` (rows), `time`, and `split` if a column holds it.
        options: the rule or the column.
        path: the interactions file, for messages.

    Returns:
        The interactions, sorted, with `split`; and `split` of catalog.json.

    Raises:
        InputError: a split is empty, or a training interaction is as late as the same pair in another split.
    """
    rule = None
    if options.columns.split is None:
        rule = Rule.parse(DEFAULT if options.split is None else options.split)
    borders, info = _borders(interactions["time"], rule)
    parts, late = [], 0
    for part in by_range(interactions, "user"):
        ordered = part.sort("user", "time", "item", maintain_order=True)
        parts.append(ordered if rule is None else _by_rule(ordered, rule, borders))
        late += _late(parts[-1])
    assigned = pl.concat(parts, rechunk=True)
    _check_filled(assigned, info, options.columns.split, path)
    if late:
        raise InputError(
            f"{path}: {late} interactions of the train split have a user and an item that are in another split at the "
            "same or an earlier time, expected earlier ones only: the retriever would know the model's answer"
        )
    return assigned, info


def _borders(times: pl.Series, rule: Rule | None) -> tuple[list[int], dict[str, Any]]:
    """The times at which validation and test begin, by a rule of times; and `split` of catalog.json."""
    if rule is None:
        return [], {"by": "column"}
    if rule.kind == "leave-last":
        return [], {"by": rule.kind, "counts": [int(rule.first), int(rule.second)]}
    info = {"by": rule.kind, "shares": [float(rule.first), float(rule.second)]}
    if rule.kind == "user":
        return [], info
    ascending = times.sort()
    borders = [ascending[_floor(share, len(times))] for share in (rule.first, rule.second)]
    return borders, info | {"borders": borders}


def _by_rule(ordered: pl.DataFrame, rule: Rule, borders: Sequence[int]) -> pl.DataFrame:
    if rule.kind == "time":
        validation, test = borders
        is_test, is_held_out = pl.col("time") >= test, pl.col("time") >= validation
    else:
        n = pl.len().cast(pl.Int64).over("user")
        left = n - pl.int_range(pl.len()).over("user")  # 1 for the user's last interaction
        if rule.kind == "user":
            tests, validations = _floor(1 - rule.second, n), _floor(rule.second - rule.first, n)
        else:
            counts = int(rule.first), int(rule.second)
            validations, tests = (pl.when(n > sum(counts)).then(count).otherwise(0) for count in counts)
        is_test, is_held_out = left <= tests, left <= tests + validations
    split = pl.when(is_test).then(pl.lit(TEST)).when(is_held_out).then(pl.lit(VALIDATION)).otherwise(pl.lit(TRAIN))
    return ordered.with_columns(split=split.cast(pl.Enum(SPLITS)))


def _floor(share: Fraction, n: Any) -> Any:
    """floor(share n), in whole numbers: in floating point (1 - 0.9) times 10 is below 1."""
    return n * share.numerator // share.denominator


def _check_filled(assigned: pl.DataFrame, info: Mapping[str, Any], column: str | None, path: Path) -> None:
    for split in SPLITS:
        if split in assigned["split"]:
            continue
        if info["by"] == "column":
            reason = f"no interaction has it in the column {column!r}"
        else:
            reason = f"{len(assigned)} interactions of {assigned['user'].n_unique()} users are too few for this --split"
            if info["by"] == "time":
                reason = f"its borders fall on the times {info['borders'][0]} and {info['borders'][1]}"
        raise InputError(f"{path}: the {split} split is empty: {reason}")


def _late(assigned: pl.DataFrame) -> int:
    """Number of training interactions as late as the same pair in another split. A repeated item is fair if the training
    interaction is earlier: the prompt shows it. A later one would be a leak."""
    train, held_out = (assigned.filter((pl.col("split") == TRAIN) == is_train) for is_train in (True, False))
    first = held_out.group_by("user", "item").agg(pl.col("time").min().alias("first"))
    return len(train.join(first, on=["user", "item"]).filter(pl.col("time") >= pl.col("first")))


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
