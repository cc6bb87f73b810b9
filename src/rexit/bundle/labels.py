"""Labels: the answers whose logits a head gives, `no` and `yes`; of several objectives a pair each.

1. JSON has `labels`, the pair's token ids. Several objectives have `objectives`, their names, and a list of pairs in the same
   order.
2. In Python labels are one flat mapping to token ids: `no` and `yes`, or `click.no`, `click.yes`, `like.no`, …
3. An interaction's label of an objective is 1, 0 or UNKNOWN. Nothing learns or is judged by an unknown one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

OBJECTIVES = "objectives"
"""Names the objectives in JSON."""
MIN_OBJECTIVES, MAX_OBJECTIVES = 2, 16
"""How many objectives can have names; a single one has none."""
UNKNOWN = -1
"""The label of an objective that data do not tell."""
COLUMN = "objective."
"""Begins the names of the columns with labels in tables of interactions."""
ANSWERS = ("no", "yes")


def check_names(names: Any, where: str) -> tuple[str, ...]:
    """Returns the names of several objectives.

    Args:
        names: A list of 2 to 16 distinct names, each of 1 to 64 letters, digits, `_` or `-`.
        where: What has them, for messages.

    Raises:
        ValueError: They are no such list.
    """
    if not isinstance(names, list | tuple):
        raise ValueError(f"{where}: is {names!r}, expected an array of names")
    if not MIN_OBJECTIVES <= len(names) <= MAX_OBJECTIVES:
        raise ValueError(f"{where}: has {len(names)} names, expected {MIN_OBJECTIVES} to {MAX_OBJECTIVES}")
    for n, name in enumerate(names):
        if not isinstance(name, str) or not re.fullmatch("[A-Za-z0-9_-]{1,64}", name):
            raise ValueError(f"{where}[{n}]: is {name!r}, expected 1 to 64 letters, digits, _ or -")
        if name in names[:n]:
            raise ValueError(f"{where}: has {name!r} twice")
    return tuple(names)


def names_of(info: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the objectives that a catalog.json or exits.json names; empty for one. Raises ValueError."""
    named = info.get(OBJECTIVES)
    return () if named is None else check_names(named, OBJECTIVES)


def labels_of(info: Mapping[str, Any]) -> dict[str, int]:
    """Returns the labels of a catalog.json or exits.json; empty without any. Raises ValueError."""
    names, labels = names_of(info), info.get("labels")
    if not names:
        return _answers({} if labels is None else labels, "labels")
    if not isinstance(labels, list) or len(labels) != len(names):
        raise ValueError(f"`labels` is {labels!r}, expected a list with the token ids of {', '.join(names)}")
    pairs = [_answers(pair or None, f"labels[{n}]") for n, pair in enumerate(labels)]
    return {f"{name}.{answer}": token for name, pair in zip(names, pairs, strict=True) for answer, token in pair.items()}


def objectives_of(labels: Mapping[str, int] | Mapping[str, str]) -> tuple[str, ...]:
    """Returns the objectives that labels name, in order; empty for one."""
    return tuple(dict.fromkeys(key.rpartition(".")[0] for key in labels if "." in key))


def pairs_of(labels: Mapping[str, int]) -> list[dict[str, int]]:
    """Returns each objective's own labels, by `no` and `yes`."""
    names = objectives_of(labels)
    if not names:
        return [dict(labels)]
    return [{key.rpartition(".")[2]: token for key, token in labels.items() if key.startswith(f"{name}.")} for name in names]


def json_of(labels: Mapping[str, int]) -> dict[str, Any]:
    """Returns `labels`, and `objectives` if they are named, as in JSON. Without any labels: empty."""
    names = objectives_of(labels)
    if names:
        return {OBJECTIVES: list(names), "labels": pairs_of(labels)}
    return {"labels": dict(labels)} if labels else {}


def log_odds_of(logits: Any) -> Any:
    """Returns log-odds [..., K] of an array or tensor of logits [..., 2K], pairs of no and yes; of one objective [...]."""
    log_odds = logits[..., 1::2] - logits[..., 0::2]
    return log_odds[..., 0] if log_odds.shape[-1] == 1 else log_odds


def _answers(value: Any, where: str) -> dict[str, int]:
    known = isinstance(value, dict) and all(type(value.get(answer, 0)) is int for answer in ANSWERS)
    if not known or (value and "yes" not in value):
        raise ValueError(f"`{where}` is {value!r}, expected the token ids of `no` and `yes`")
    return {answer: value[answer] for answer in ANSWERS if answer in value}
