"""Times as people write them, converted to the int64 of a catalog's times.

1. A whole number is in the catalog's unit: `881250949`, or `881250949.0` as some programs write it.
2. ISO 8601 text, a date or a datetime is a moment, in UTC unless it names another zone. It needs a catalog with a known unit.
3. Fractions of the unit are rounded towards the past.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from numbers import Integral, Real
from typing import Annotated

import msgspec

from rexit.errors import InputError

TICKS: Mapping[str, int] = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
"""Ticks of each unit per second. Times that are moments count from 1970-01-01T00:00:00Z."""
EXPECTED = "a date or time like 2024-03-01T18:30:00Z"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PLAUSIBLE = (315532800, 4102444800)  # seconds: the years 1980 to 2099
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_MAX_DIGITS = 20  # an int64 with its sign
_EXACT = 1 << 53  # whole floats below this are exact


def whole_number(value: object) -> int | None:
    """Returns the whole number that a number or a text says; None for anything else."""
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = int(value) if value.lstrip("+-").isdigit() and len(value) <= _MAX_DIGITS else float(value)
    if isinstance(value, bool) or not isinstance(value, Real | Decimal):
        return None
    if isinstance(value, Integral):
        return int(value)
    number = float(value)
    return int(number) if abs(number) < _EXACT and number.is_integer() else None


def microseconds(value: object) -> int | None:
    """Returns microseconds since 1970 of ISO 8601 text, a date or a datetime; None for anything else."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    if not isinstance(value, datetime):
        return None
    return ((value if value.tzinfo else value.replace(tzinfo=UTC)) - _EPOCH) // timedelta(microseconds=1)


def unit_of(first: int, last: int) -> str | None:
    """Returns the unit in which whole numbers from `first` to `last` lie in the years 1980 to 2099; None if there is none."""
    begin, end = _PLAUSIBLE
    return next((unit for unit, ticks in TICKS.items() if begin * ticks <= first and last < end * ticks), None)


class Timeline(msgspec.Struct, frozen=True, omit_defaults=True):
    """A catalog's times: `order` in catalog.json.

    Attributes:
        by: `time`, or the order that is used instead of times.
        first: The first interaction's time.
        last: The last interaction's time.
        unit: A key of `TICKS`; None: the unit of the whole numbers is unknown.
    """

    by: str
    first: int
    last: int
    unit: Annotated[str, msgspec.Meta(pattern=f"^({'|'.join(TICKS)})$")] | None = None

    @property
    def kind(self) -> str:
        """What the numbers are, for messages."""
        if self.by != "time":
            return f"places in an order ({self.by})"
        return "whole numbers of no known unit" if self.unit is None else self.unit

    def parse(self, value: object, name: str) -> int:
        """Returns the time that a value says. name: the value's, for messages. Raises InputError."""
        number = whole_number(value)
        if number is None and (moment := microseconds(value)) is not None:
            if self.unit is None:
                raise InputError(f"{name} is {value}: this catalog's times are {self.kind}, {self.first} to {self.last}")
            number = moment * TICKS[self.unit] // 10**6
        if number is None or not -(1 << 63) <= number < 1 << 63:
            expected = "a 64-bit whole number" if self.unit is None else f"a 64-bit whole number ({self.unit}), or {EXPECTED}"
            raise InputError(f"{name} is {value!r}, expected {expected}")
        return number

    def date(self, time: int) -> str | None:
        """Returns a time in ISO 8601; None if the unit is unknown, or outside the years 1 to 9999."""
        if self.unit is None:
            return None
        try:
            moment = _EPOCH + timedelta(microseconds=time * 10**6 // TICKS[self.unit])
        except OverflowError:
            return None
        return moment.isoformat().replace("+00:00", "Z")

    def text(self, time: int) -> str:
        """Returns a time as text, with its date if it has one."""
        return str(time) if (date := self.date(time)) is None else f"{time} ({date})"

    def outside(self, time: int) -> str | None:
        """Returns how a time to score as of lies outside the interactions' span, in words; None if it lies inside."""
        if time <= self.first:
            return f"{self.text(time)} is not after the catalog's first interaction, {self.text(self.first)}: none is visible"
        if time > self.last:
            return f"{self.text(time)} is after the catalog's last interaction, {self.text(self.last)}: all are visible"
        return None
