"""Ids as people write them, to the type of the catalog's data: on the command line, in files of pairs and in calls."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import TypeVar

from rexit.errors import InputError

Id = int | str
"""A user's or an item's id."""

T = TypeVar("T")


def to_id(value: object, kind: str) -> Id | None:
    """Returns the id that a text or an integer stands for, or None if it stands for none.

    `007` and `+7` are not the integer 7, as in `rexit index`: two different ids must never become the same.

    Args:
        value: A text or an integer; anything else is no id.
        kind: The catalog's kind of ids, `int64` or `string`.
    """
    if isinstance(value, bool) or not isinstance(value, str | Integral):
        return None
    text = str(value)
    if kind == "string":
        return text if "\0" not in text and _is_unicode(text) else None
    try:
        number = int(value)
    except ValueError:
        return None
    return number if str(number) == text and -(1 << 63) <= number < 1 << 63 else None


def parse_id(text: str, kind: str, what: str) -> Id:
    """Returns the id that a text stands for, as `to_id`. Raises InputError if it stands for none. what: `user` or `item`."""
    if (value := to_id(text, kind)) is not None:
        return value
    if kind == "string":
        raise InputError(f"{what} {text!r}: an id is UTF-8 text without a NUL character")
    raise InputError(f"{what} {text!r}: this catalog's {what} ids are 64-bit integers, written like 7 or -12")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # bytes on the command line that are not UTF-8
        return False
    return True


def parse_ids(text: str, kind: str, what: str) -> list[Id]:
    """Splits ids at commas, except in quotes, as in CSV. Raises InputError for a text that is no id, or without any."""
    ids = [parse_id(part, kind, what) for part in _split(text)]
    if not ids:
        raise InputError(f"no {what}s given, expected at least one id")
    return ids


def parse_recent(text: str, kind: str) -> list[tuple[Id, bool]]:
    """Parses recent interactions, oldest first, separated as ids: `ITEM` or `ITEM:1` liked, `ITEM:0` not liked. Returns pairs of
    an id and whether the item was liked. Raises InputError."""
    recent = []
    for part in _split(text):
        item, colon, verdict = part.rpartition(":")
        if colon and verdict in ("0", "1"):
            recent.append((parse_id(item, kind, "item"), verdict == "1"))
        else:
            recent.append((parse_id(part, kind, "item"), True))
    return recent


def _split(text: str) -> list[str]:
    """Returns the non-empty parts between commas. Raises InputError for a quote that no comma or end follows."""
    without_blanks = re.sub(r'(?<!")"[ \t]+(?=,)', '"', text.strip())  # which csv refuses behind a closing quote
    try:
        cells = next(csv.reader([without_blanks], strict=True, skipinitialspace=True), [])
    except csv.Error as exc:
        raise InputError(f"{text!r}: expected ids separated by commas, one with a comma in quotes as in CSV") from exc
    return [part for cell in cells if (part := cell.strip(" \t"))]


def first_few(values: Sequence[T], name: Callable[[T], str] = repr, count: int = 5) -> str:
    """Names the first values, and how many more there are: `1, 2, 3, 4, 5 and 12 more`."""
    more = f" and {len(values) - count} more" if len(values) > count else ""
    return ", ".join(map(name, values[:count])) + more
