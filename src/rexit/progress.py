"""How long-running work reports its progress, and how long its stages take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Value = TypeVar("Value")

Progress = Callable[[str, int, int], None]
"""Called with the name of a step, the amount done, and the total. What follows DETAIL in the name may change within a step."""

DETAIL = " · "


def silent(what: str, done: int, total: int) -> None:
    """A Progress that reports nothing."""


def tracked(values: Sequence[Value], what: str, progress: Progress) -> Iterator[Value]:
    """Yields the values, and reports before the first and after each how many are done."""
    progress(what, 0, len(values))
    for done, value in enumerate(values, 1):
        yield value
        progress(what, done, len(values))


class Clock:
    """seconds: duration of each finished stage, by name; a stage that comes again adds to it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Ends a stage; the next one begins."""
        now = time.perf_counter()
        self.seconds[name], self._last = self.seconds.get(name, 0.0) + now - self._last, now
