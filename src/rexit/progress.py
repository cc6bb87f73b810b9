"""How long-running work reports progress."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Value = TypeVar("Value")

Progress = Callable[[str, int, int], None]
"""Called with the name of a step, the amount done, and the total."""


def silent(what: str, done: int, total: int) -> None:
    """A Progress that reports nothing."""


def tracked(values: Sequence[Value], what: str, progress: Progress) -> Iterator[Value]:
    """Yields the values, and reports before the first and after each how many are done."""
    progress(what, 0, len(values))
    for done, value in enumerate(values, 1):
        yield value
        progress(what, done, len(values))
