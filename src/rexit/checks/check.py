"""What a check says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
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

    def naming(self, bundle: Path, folder: Path) -> Check:
        """Returns the check with `bundle` named in place of the folder that was checked."""
        lines = [line.replace(str(folder), str(bundle)) for line in (self.detail, *self.failures)]
        return replace(self, detail=lines[0], failures=tuple(lines[1:]))


def checked(variant: str, name: str, detail: str, failures: Iterable[str] = ()) -> Check:
    """A check that was done: `ok` without failures."""
    lines = tuple(failures)
    return Check(variant, name, "FAILED" if lines else "ok", detail, lines)
