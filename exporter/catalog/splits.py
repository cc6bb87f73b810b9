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
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import polars as pl

from rexit.bundle.catalog import SPLITS
from rexit.errors import InputError
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
    ordered = interactions.sort("user", "time", "item", maintain_order=True)
    if options.columns.split is not None:
        assigned, info = ordered, {"by": "column"}
    else:
        assigned, info = _by_rule(ordered, Rule.parse(DEFAULT if options.split is None else options.split))
    _check_filled(assigned, info, options.columns.split, path)
    _check_disjoint(assigned, path)
    return assigned, info


def _by_rule(ordered: pl.DataFrame, rule: Rule) -> tuple[pl.DataFrame, dict[str, Any]]:
    if rule.kind == "time":
        times = ordered["time"].sort()
        validation, test = (times[_floor(share, len(times))] for share in (rule.first, rule.second))
        is_test, is_held_out = pl.col("time") >= test, pl.col("time") >= validation
        info: dict[str, Any] = {"shares": [float(rule.first), float(rule.second)], "borders": [validation, test]}
    else:
        n = pl.len().cast(pl.Int64).over("user")
        left = n - pl.int_range(pl.len()).over("user")  # 1 for the user's last interaction
        if rule.kind == "user":
            tests, validations = _floor(1 - rule.second, n), _floor(rule.second - rule.first, n)
            info = {"shares": [float(rule.first), float(rule.second)]}
        else:
            counts = int(rule.first), int(rule.second)
            validations, tests = (pl.when(n > sum(counts)).then(count).otherwise(0) for count in counts)
            info = {"counts": list(counts)}
        is_test, is_held_out = left <= tests, left <= tests + validations
    split = pl.when(is_test).then(pl.lit(TEST)).when(is_held_out).then(pl.lit(VALIDATION)).otherwise(pl.lit(TRAIN))
    return ordered.with_columns(split=split.cast(pl.Enum(SPLITS))), {"by": rule.kind, **info}


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


def _check_disjoint(assigned: pl.DataFrame, path: Path) -> None:
    """A repeated item is fair if the training interaction is earlier: the prompt shows it. A later one would be a leak."""
    train, held_out = (assigned.filter((pl.col("split") == TRAIN) == is_train) for is_train in (True, False))
    first = held_out.group_by("user", "item").agg(pl.col("time").min().alias("first"))
    late = train.join(first, on=["user", "item"]).filter(pl.col("time") >= pl.col("first"))
    if len(late):
        raise InputError(
            f"{path}: {len(late)} interactions of the train split have a user and an item that stand in another split at the "
            "same or an earlier time, expected earlier ones only: the retriever would know the model's answer"
        )
