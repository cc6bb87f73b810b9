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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import polars as pl

from rexit.errors import InputError
from rexit.exporter.catalog.catalog_files import by_range
from rexit.exporter.options import IndexOptions
from rexit.format.bundle.catalog import SPLITS

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
