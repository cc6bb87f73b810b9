"""Request texts: the ops that place them, and what `requires` says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from builders.bundles.bundle_files import refresh, write_json
from damage.cases import Cases
from damage.edits import CATALOG

CASES = Cases("opening")
ends_in = CASES.ends_in

OP: dict[str, Any] = {"op": "request", "name": "query", "limit": 6, "spaced": True, "missing": 1}


def place(folder: Path, *ops: Any, requires: bool = True) -> None:
    """Puts ops at the end of the prefix into a bundle that has no request texts."""
    info = json.loads((folder / CATALOG).read_text())
    info["requires"] = ["request-text"] if requires else []
    info["prompt"]["prefix"] += ops
    write_json(folder / CATALOG, info)
    refresh(folder)


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in OP.items() if name != key}


@ends_in("OK", found="running")
def sound_request_text(folder: Path) -> None:
    """A request without one: the template's word."""
    place(folder, OP, OP)


@ends_in("INVALID_ARGUMENT", "request text 'query' is missing, expected at most 6 tokens", "running")
def request_text_that_the_request_lacks(folder: Path) -> None:
    place(folder, without("missing"))


@ends_in("CORRUPT", "requires: lacks `request-text`")
def request_text_that_is_not_required(folder: Path) -> None:
    place(folder, OP, requires=False)


@ends_in("CORRUPT", "requires: holds `request-text`")
def request_text_that_no_op_places(folder: Path) -> None:
    place(folder)


@ends_in("CORRUPT", "places `query` by other rules than an op before it")
def two_limits_of_one_text(folder: Path) -> None:
    place(folder, OP, {**OP, "limit": 7})


@ends_in("CORRUPT", "places `query` by other rules than an op before it")
def text_that_is_required_in_one_place(folder: Path) -> None:
    place(folder, OP, without("missing"))


@ends_in("CORRUPT", "limit")
def text_without_a_limit(folder: Path) -> None:
    place(folder, without("limit"))


@ends_in("CORRUPT", "limit")
def text_of_no_tokens(folder: Path) -> None:
    place(folder, {**OP, "limit": 0})


@ends_in("CORRUPT", "limit")
def text_of_too_many_tokens(folder: Path) -> None:
    place(folder, {**OP, "limit": 4097})


@ends_in("CORRUPT", "name: is empty")
def text_without_a_name(folder: Path) -> None:
    place(folder, {**OP, "name": ""})


@ends_in("CORRUPT", "missing")
def word_beyond_the_pieces(folder: Path) -> None:
    place(folder, {**OP, "missing": 1 << 20})


@ends_in("CORRUPT", "inside an `entry`")
def text_inside_an_entry(folder: Path) -> None:
    place(folder, {"op": "similar_liked", "limit": 1, "empty": 1, "entry": [OP]})
