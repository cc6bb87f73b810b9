"""Labels: the answers whose logits a head gives, by the token ids of `no` and `yes`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ANSWERS = ("no", "yes")


def labels_of(info: Mapping[str, Any]) -> dict[str, int]:
    """Returns the labels of a catalog.json or exits.json; empty without any. Raises ValueError."""
    value = {} if info.get("labels") is None else info["labels"]
    known = isinstance(value, dict) and all(type(value.get(answer, 0)) is int for answer in ANSWERS)
    if not known or (value and "yes" not in value):
        raise ValueError(f"`labels` is {value!r}, expected the token ids of `no` and `yes`")
    return {answer: value[answer] for answer in ANSWERS if answer in value}


def log_odds_of(logits: Any) -> Any:
    """Returns log-odds [...] of an array or tensor of logits [..., 2], no and yes."""
    return logits[..., 1] - logits[..., 0]
