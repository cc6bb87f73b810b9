"""Ids on the command line: text to what the catalog's data had."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rexit.errors import InputError

if TYPE_CHECKING:
    from rexit.bundle.catalog import Id


def parse_id(text: str, kind: str, what: str) -> Id:
    """One id; `kind` is the catalog's, `int64` or `string`. Raises InputError."""
    if kind == "string":
        return text
    try:
        return int(text)
    except ValueError as exc:
        raise InputError(f"{what} {text!r}: this catalog's {what} ids are integers") from exc


def parse_ids(text: str, kind: str, what: str) -> list[Id]:
    """Ids separated by commas, at least one. Raises InputError."""
    ids = [parse_id(part.strip(), kind, what) for part in text.split(",") if part.strip()]
    if not ids:
        raise InputError(f"{what}s: none given, expected at least one id")
    return ids


def parse_recent(text: str, kind: str) -> list[tuple[Id, bool]]:
    """Fresh interactions, oldest first: `ITEM` or `ITEM:1` for liked, `ITEM:0` for not liked, separated by commas."""
    recent = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        item, colon, verdict = part.rpartition(":")
        if colon and verdict in ("0", "1"):
            recent.append((parse_id(item, kind, "item"), verdict == "1"))
        else:
            recent.append((parse_id(part, kind, "item"), True))
    return recent
