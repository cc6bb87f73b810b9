"""How long-running work reports progress."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with the name of a step, the amount done, and the total."""


def silent(what: str, done: int, total: int) -> None:
    """A Progress that reports nothing."""
