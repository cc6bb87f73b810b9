"""Runs the work of an index that can be split by users or texts: in this process, or on workers of a Ray cluster."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol


class Task(Protocol):
    """Work on a range of users or texts. An instance is made of what all ranges share."""

    def __call__(self, begin: int, end: int) -> Any:
        """Returns the result for [begin, end), which does not depend on the worker or on other ranges."""


class Workers(Protocol):
    """Runs a task on all ranges."""

    def run(self, task: type[Task], shared: Mapping[str, Any], count: int, step: int) -> Iterator[tuple[int, int, Any]]:
        """Runs `task(**shared)` on ranges that cover [0, count).

        Args:
            task: a class at module level.
            shared: arguments of its constructor.
            count: number of users or texts.
            step: length of a range that suits one process.

        Yields:
            The begin, the end and the result of each range, in any order.

        Raises:
            BackendError: the workers fail.
        """


class Local:
    """Works in this process."""

    def run(self, task: type[Task], shared: Mapping[str, Any], count: int, step: int) -> Iterator[tuple[int, int, Any]]:
        work = task(**shared)
        for begin in range(0, count, step):
            end = min(count, begin + step)
            yield begin, end, work(begin, end)


LOCAL = Local()
