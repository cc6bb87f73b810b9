"""What a check says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Check:
    """One check of one variant.

    Attributes:
        variant: Name of the variant; "" if the bundle cannot be opened.
        name: What was checked.
        outcome: `FAILED` if there are failures.
        detail: How much was checked, or why it was not.
        failures: One line each.
    """

    variant: str
    name: str
    outcome: Literal["ok", "FAILED", "skipped"]
    detail: str
    failures: tuple[str, ...] = ()


def checked(variant: str, name: str, detail: str, failures: Iterable[str] = ()) -> Check:
    """A check that was done: `ok` without failures."""
    lines = tuple(failures)
    return Check(variant, name, "FAILED" if lines else "ok", detail, lines)
