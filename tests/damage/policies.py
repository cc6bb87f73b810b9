"""Policies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from builders.bundle_files import write_policy
from damage.cases import Cases
from damage.edits import VARIANT, edit_json

CASES = Cases("opening")
ends_in = CASES.ends_in


def damaged_policy(folder: Path, **changes: Any) -> None:
    exits = [{"a": 1.0, "b": 0.0, "upper": 1.0, "lower": 1.0} for _ in range(3)]
    exits[1] |= changes
    write_policy(folder, exits)


@ends_in("CORRUPT", "exits")
def policy_with_too_few_exits(folder: Path) -> None:
    write_policy(folder, [{"a": 1.0, "b": 0.0, "upper": None, "lower": None}] * 2)


@ends_in("CORRUPT", "exits[1] a")
def policy_with_a_negative_slope(folder: Path) -> None:
    damaged_policy(folder, a=-1.0)


@ends_in("CORRUPT", "exits[1] a")
def policy_with_a_slope_that_leaves_float32(folder: Path) -> None:
    damaged_policy(folder, a=3e38, upper=None, lower=None)


@ends_in("CORRUPT", "exits[1] b")
def policy_with_an_intercept_that_leaves_float32(folder: Path) -> None:
    damaged_policy(folder, b=-3e38, upper=None, lower=None)


@ends_in("CORRUPT", "not valid JSON")
def policy_with_nan(folder: Path) -> None:
    damaged_policy(folder, b=float("nan"))


@ends_in("CORRUPT", "exits[1] b")
def policy_beyond_float32(folder: Path) -> None:
    damaged_policy(folder, b=1e300)


@ends_in("CORRUPT", "exits[1] upper")
def policy_with_text(folder: Path) -> None:
    damaged_policy(folder, upper="1.0")


@ends_in("CORRUPT", "patience")
def policy_without_patience(folder: Path) -> None:
    write_policy(folder, [{"a": 1.0, "b": 0.0, "upper": None, "lower": None}] * 3, patience=0)


@ends_in("MISMATCH", "policy.json")
def policy_of_another_variant(folder: Path) -> None:
    write_policy(folder, [{"a": 1.0, "b": 0.0, "upper": 1.0, "lower": 1.0}] * 3)
    edit_json(folder, VARIANT, "producer", to="exported again")
