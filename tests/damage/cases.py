"""Ways to damage a bundle: one function each, named by the damage, with the status it must end in."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

Damage = Callable[[Path], None]

RUNNING_USER, RUNNING_ITEMS = 2, (0, 5)
"""Rows of the slate that is run when a case is found `running`; tests/cpp/api/test_damage.cpp has their ids."""
LATE = 1 << 40
"""The `as_of` it is run with when a case is found `searching`: everything is visible, but similar users are searched for."""


@dataclass(frozen=True)
class Case:
    """damage: what is done to the bundle's folder. status: which it ends in; OK: it must do no harm. names: what the message
    names. found: when: `opening`, `running`, `searching`, or `verifying`: opening succeeds, and a slate is scored or refused with
    a status."""

    damage: Damage
    status: str
    names: str
    found: str


class Cases(dict[str, Case]):
    """By name. found: when those are found that do not say it."""

    def __init__(self, found: str) -> None:
        super().__init__()
        self._found = found

    def ends_in(self, status: str, names: str = "", found: str | None = None) -> Callable[[Damage], Damage]:
        """Decorates a damage: adds it."""

        def add(damage: Damage) -> Damage:
            self[damage.__name__] = Case(damage, f"REXIT_{status}", names, found or self._found)
            return damage

        return add


def write_cases(cases: Mapping[str, Case], sound: Path, place: Path) -> None:
    """For the C++ tests: place/NAME/bundle, a damaged copy of `sound`, and place/NAME/expected: status, text and when."""
    for name, case in cases.items():
        shutil.copytree(sound, place / name / "bundle")
        case.damage(place / name / "bundle")
        (place / name / "expected").write_text(f"{case.status}\n{case.names}\n{case.found}\n")
