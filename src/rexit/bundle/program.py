"""Prompt programs compared by what they say: their ops, with the tokens of a piece in the place of its number."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

_PIECES = ("piece", "missing", "yes", "no", "unseen", "empty", "bins")
"""Keys of an op that hold pieces."""

Pieces = Mapping[str, NDArray[Any]]
"""`offsets` and `tokens` of pieces.safetensors."""


def first_difference(seen: Mapping[str, Any], pieces: Pieces, expected: Mapping[str, Any], expected_pieces: Pieces) -> str | None:
    """What first differs between two programs (`prompt` of catalog.json), each over its own pieces; None if nothing does."""
    for part in ("prefix", "candidate"):
        for at, (a, b) in enumerate(
            itertools.zip_longest(_spelled(seen[part], pieces), _spelled(expected[part], expected_pieces))
        ):
            if a != b:
                return f"{part} op {at} is {_short(a)}, expected {_short(b)}"
    return None


def program_digest(program: Mapping[str, Any], pieces: Pieces) -> str:
    """SHA-256 of what a program (`prompt` of catalog.json) says, in lower-case hex: the same for two between which
    `first_difference` sees none and that place the same vectors."""
    spelled = {part: _spelled(program[part], pieces) for part in ("prefix", "candidate")}
    said = json.dumps({**spelled, "vectors": program.get("vectors", [])}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(said.encode()).hexdigest()


def _spelled(ops: list[dict[str, Any]], pieces: Pieces) -> list[dict[str, Any]]:
    offsets, tokens = pieces["offsets"], pieces["tokens"]

    def spell(value: Any) -> Any:
        return [spell(one) for one in value] if isinstance(value, list) else tokens[offsets[value] : offsets[value + 1]].tolist()

    def of(key: str, value: Any) -> Any:
        if key == "entry":
            return _spelled(value, pieces)
        return spell(value) if key in _PIECES else value

    return [{key: of(key, value) for key, value in op.items()} for op in ops]


def _short(op: dict[str, Any] | None) -> str:
    if op is None:
        return "missing"
    text = ", ".join(f"{key} {value}" for key, value in op.items() if key != "op")
    text = f"{op['op']} ({text})"
    return text if len(text) <= 100 else text[:99] + "…"
