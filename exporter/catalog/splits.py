"""Which interactions train, choose and test: every interaction belongs to one split.

Rules
1. Order: user row, time, item row; what is equal in all three keeps the order of the file.
2. `user:A,B`: of a user's n interactions the last floor((1 - B) n) are `test`, the floor((B - A) n) before them `validation`, the
   rest training. So with 0.8,0.9 a user with fewer than ten is all training.
3. `time:A,B`: with all M interactions in order of time, counted from 0, those before the time of number floor(A M) are training,
   those from the time of number floor(B M) on `test`, what is between `validation`. What has the same time is on the same side.
4. `leave-last:V,T`: of each user the last T are `test`, the V before them `validation`, the rest training. A user with no more
   than V + T is all training.
5. A split column says it of each interaction: `train`, `validation` (or `valid`), `test`.
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
_FINEST = 10**6  # of a share: its numerator times a number of interactions must stay an int64


@dataclass(frozen=True)
class Rule:
    """A rule of this module's by its kind, with its two numbers: shares, or counts of `leave-last`."""

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
    """Sorts interactions, says which split each belongs to, and how that was decided: `split` of catalog.json.

    `interactions` needs `user` and `item` as rows and `time`, and `split` where a column says it; in the result all have a
    `split`. `path` is for messages. Raises InputError for a split without an interaction.
    """
    ordered = interactions.sort("user", "time", "item", maintain_order=True)
    if options.columns.split is not None:
        assigned, told = ordered, {"by": "column", "column": options.columns.split}
    else:
        assigned, told = _by_rule(ordered, Rule.parse(DEFAULT if options.split is None else options.split))
    _check_filled(assigned, told, path)
    _check_disjoint(assigned, path)
    return assigned, told


def _by_rule(ordered: pl.DataFrame, rule: Rule) -> tuple[pl.DataFrame, dict[str, Any]]:
    if rule.kind == "time":
        times = ordered["time"].sort()
        validation, test = (times[_floor(share, len(times))] for share in (rule.first, rule.second))
        is_test, is_held_out = pl.col("time") >= test, pl.col("time") >= validation
        told: dict[str, Any] = {"shares": [float(rule.first), float(rule.second)], "borders": [validation, test]}
    else:
        n = pl.len().cast(pl.Int64).over("user")
        left = n - pl.int_range(pl.len()).over("user")  # 1 for the user's last interaction
        if rule.kind == "user":
            tests, validations = _floor(1 - rule.second, n), _floor(rule.second - rule.first, n)
            told = {"shares": [float(rule.first), float(rule.second)]}
        else:
            counts = int(rule.first), int(rule.second)
            validations, tests = (pl.when(n > sum(counts)).then(count).otherwise(0) for count in counts)
            told = {"counts": list(counts)}
        is_test, is_held_out = left <= tests, left <= tests + validations
    split = pl.when(is_test).then(pl.lit(TEST)).when(is_held_out).then(pl.lit(VALIDATION)).otherwise(pl.lit(TRAIN))
    return ordered.with_columns(split=split.cast(pl.Enum(SPLITS))), {"by": rule.kind, **told}


def _floor(share: Fraction, n: Any) -> Any:
    """floor(share n) of whole numbers, exactly: in floating point (1 - 0.9) times 10 is below 1."""
    return n * share.numerator // share.denominator


def _check_filled(assigned: pl.DataFrame, told: Mapping[str, Any], path: Path) -> None:
    for split in SPLITS:
        if split in assigned["split"]:
            continue
        if told["by"] == "column":
            reason = f"no interaction has it in the column {told['column']!r}"
        else:
            reason = f"{len(assigned)} interactions of {assigned['user'].n_unique()} users are too few for this --split"
            if told["by"] == "time":
                reason = f"its borders fall on the times {told['borders'][0]} and {told['borders'][1]}"
        raise InputError(f"{path}: the {split} split is empty: {reason}")


def _check_disjoint(assigned: pl.DataFrame, path: Path) -> None:
    """An item met again later is fair: the prompt shows the first time. One that the graph knows from later is an answer."""
    known, asked = (assigned.filter((pl.col("split") == TRAIN) == of_graph) for of_graph in (True, False))
    first = asked.group_by("user", "item").agg(pl.col("time").min().alias("asked"))
    late = known.join(first, on=["user", "item"]).filter(pl.col("time") >= pl.col("asked"))
    if len(late):
        raise InputError(
            f"{path}: {len(late)} interactions of the train split have a user and an item that stand in another split at the "
            "same or an earlier time, expected earlier ones only: the retriever would know what the model is asked"
        )
