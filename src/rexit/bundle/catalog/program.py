"""Compares prompt programs by their meaning: ops, with a piece's tokens in the place of its number."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

_PIECES = ("piece", "missing", "yes", "no", "unseen", "empty", "bins", "pieces")
"""Keys of an op whose values are pieces."""

Pieces = Mapping[str, NDArray[Any]]
"""`offsets` and `tokens` of pieces.safetensors."""


def first_difference(
    program: Mapping[str, Any], pieces: Pieces, expected: Mapping[str, Any], expected_pieces: Pieces
) -> str | None:
    """Returns the first difference between two programs (`prompt` of catalog.json) with their pieces; None if there is none."""
    for part in ("prefix", "candidate", "numbers"):
        sides = _spelled(program.get(part, []), pieces), _spelled(expected.get(part, []), expected_pieces)
        for at, (a, b) in enumerate(itertools.zip_longest(*sides)):
            if a != b:
                return f"{part} op {at} is {_short_op(a)}, expected {_short_op(b)}"
    inputs = [{entry["name"]: entry for entry in side.get("inputs") or []} for side in (program, expected)]
    for name, entry in inputs[0].items():
        if entry != inputs[1].get(name):
            return f"input {name!r} is {_short_entry(entry, 'name')}, expected {_short_entry(inputs[1].get(name), 'name')}"
    return None


def program_digest(program: Mapping[str, Any], pieces: Pieces) -> str:
    """Returns the SHA-256 of a program (`prompt` of catalog.json), lower-case hex. It is equal for two programs that have no
    `first_difference` in what a model reads and place the same vectors."""
    spelled = {part: _spelled(program[part], pieces) for part in ("prefix", "candidate")}
    inputs = {"inputs": program["inputs"]} if program.get("inputs") else {}
    text = json.dumps({**spelled, "vectors": program.get("vectors", []), **inputs}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _spelled(ops: list[dict[str, Any]], pieces: Pieces) -> list[dict[str, Any]]:
    offsets, tokens = pieces["offsets"], pieces["tokens"]

    def spell(value: Any) -> Any:
        return (
            [spell(piece) for piece in value] if isinstance(value, list) else tokens[offsets[value] : offsets[value + 1]].tolist()
        )

    def spell_entry(key: str, value: Any) -> Any:
        if key == "entry":
            return _spelled(value, pieces)
        return spell(value) if key in _PIECES else value

    return [{key: spell_entry(key, value) for key, value in op.items()} for op in ops]


def _short_op(op: dict[str, Any] | None) -> str:
    return "missing" if op is None else f"{op['op']} ({_short_entry(op, 'op')})".removesuffix(" ()")


def _short_entry(entry: dict[str, Any] | None, without: str) -> str:
    """The entry's keys and values but one, at most 100 characters."""
    text = "missing" if entry is None else ", ".join(f"{key} {value}" for key, value in entry.items() if key != without)
    return text if len(text) <= 100 else text[:99] + "…"
