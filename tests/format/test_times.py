"""Moments as people write them, and the int64 of a catalog's times."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest

from rexit.errors import BundleError, InputError
from rexit.format.bundle.files import to_json, typed
from rexit.format.times import Timeline, unit_of

SECONDS = Timeline("time", 10, 60, "seconds")


@pytest.mark.parametrize(
    ("value", "time"),
    [
        (7, 7),
        ("-7", -7),
        ("+7", 7),
        ("881250949.0", 881250949),
        (1e9, 10**9),
        (2**63 - 1, 2**63 - 1),
        (-(2**63), -(2**63)),
        ("9223372036854775807", 2**63 - 1),
        ("20240301", 20240301),  # a number, though ISO 8601 has a form without dashes
        ("2024-03-01", 1709251200),
        (date(2024, 3, 1), 1709251200),
        (datetime(2024, 3, 1), 1709251200),
        ("2024-03-01T18:30:00Z", 1709317800),
        (datetime(2024, 3, 1, 18, 30, tzinfo=UTC), 1709317800),
        (datetime(2024, 3, 1, 18, 30, tzinfo=timezone(timedelta(hours=2))), 1709310600),
        ("2024-03-01 18:30:00.999", 1709317800),
        ("1969-12-31T23:59:59.5", -1),  # what is finer is cut off, towards the past
        ("0001-01-01T00:00:00+14:00", -62135647200),
    ],
)
def test_one_moment_whatever_its_form(value: Any, time: int) -> None:
    assert SECONDS.parse(value, "t") == time


@pytest.mark.parametrize(
    "value",
    ["", "soon", "1_000", " 7", "7.5", 7.5, float("nan"), float("inf"), "\u0667", True, None, [7], 2**63, -(2**63) - 1, "1e400"],
)
def test_what_is_no_moment_is_refused(value: Any) -> None:
    with pytest.raises(
        InputError, match=r"t is .*, expected a 64-bit whole number \(seconds\), or a date or time like 2024-03-01T18:30"
    ):
        SECONDS.parse(value, "t")


@pytest.mark.parametrize("unit", ["seconds", "milliseconds", "microseconds", "nanoseconds"])
def test_a_date_is_counted_in_the_catalogs_unit(unit: str) -> None:
    ticks = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}[unit]
    timeline = Timeline("time", 0, 1, unit)
    assert timeline.parse("2024-03-01", "t") == 1709251200 * ticks
    assert timeline.text(1709251200 * ticks) == f"{1709251200 * ticks} (2024-03-01T00:00:00Z)"
    assert timeline.text(2**63 - 1).startswith(str(2**63 - 1)), "a date or none, but no error"
    assert unit_of(1709251200 * ticks, 1709251201 * ticks) == unit


@pytest.mark.parametrize(("by", "kind"), [("time", "whole numbers of no known unit"), ("file", "places in an order (file)")])
def test_a_date_needs_a_known_unit(by: str, kind: str) -> None:
    timeline = Timeline(by, 3, 9, None)
    with pytest.raises(InputError, match=re.escape(f"t is 2024-03-01: this catalog's times are {kind}, 3 to 9")):
        timeline.parse("2024-03-01", "t")
    assert timeline.parse(5, "t") == 5


def test_other_whole_numbers_have_no_unit() -> None:
    for first, last in ((0, 30), (20240301, 20240302), (1709251200, 1709251200000)):
        assert unit_of(first, last) is None


def test_a_catalog_that_says_nothing_of_its_times() -> None:
    whole = {"by": "time", "unit": "seconds", "first": 1, "last": 2}
    assert to_json(typed(whole, Timeline, "c")) == whole
    for damage in ({"first": None}, {"last": 1.5}, {"first": True}, {"unit": "days"}, {"unit": []}, {"by": None}):
        with pytest.raises(BundleError, match="c: order"):
            typed({**whole, **damage}, Timeline, "c", at="order")
    with pytest.raises(BundleError, match="c: order: is None, expected an object"):
        typed(None, Timeline, "c", at="order")
