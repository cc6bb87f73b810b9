"""Where output goes: results to stdout (a table, or one JSON document with --json), progress and errors to stderr."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from typing import Any

from rich import progress as rich_progress
from rich.console import Console

from rexit import interrupts
from rexit.progress import DETAIL, Progress

_WIDE = 160
"""Columns for a file or a pipe, which has no width of its own: wide enough for every table."""

# Ids, titles and paths are printed as they are: `[/b]` and `:x:` are not markup in them, and a line is as long as it is.
stdout = Console(
    highlight=False,
    markup=False,
    emoji=False,
    soft_wrap=True,
    width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else _WIDE,
)
stderr = Console(stderr=True, highlight=False, markup=False, emoji=False)


def print_json(value: Any) -> None:
    """One JSON document on stdout. Numbers that JSON cannot hold become null."""
    from rexit.bundle.files import json_values

    print(json.dumps(json_values(value), indent=1, ensure_ascii=False, default=str, allow_nan=False))


def say(line: str) -> None:
    """Prints a line on stderr."""
    stderr.print(line, soft_wrap=True)


SILENCE = 60.0
"""Seconds between two lines of progress where there is no terminal for a display."""


class _Interruptible(rich_progress.Progress):
    """If a signal's exception went astray, the next step raises it again. Without a terminal a line from time to time."""

    def __init__(self, *columns: Any, **keywords: Any) -> None:
        super().__init__(*columns, **keywords)
        self._said = time.monotonic()

    def update(self, task_id: rich_progress.TaskID, **keywords: Any) -> None:
        interrupts.check()
        super().update(task_id, **keywords)
        if self.disable and (now := time.monotonic()) - self._said > SILENCE:
            self._said, task = now, self.tasks[task_id]
            say(f"rexit: {task.description}: {task.completed:.0f} of {task.total or 0:.0f}")


def progress() -> rich_progress.Progress:
    """A progress display on stderr; it disappears when it is done. If stderr is not a terminal, a line a minute."""
    return _Interruptible(
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TimeElapsedColumn(),
        rich_progress.TimeRemainingColumn(),
        console=stderr,
        transient=True,
        disable=not stderr.is_terminal,
    )


def shown(bar: rich_progress.Progress, texts: Mapping[str, str] | None = None) -> Progress:
    """A Progress that shows one line in the display for each step. texts: what is shown of steps instead of their names."""
    tasks: dict[str, rich_progress.TaskID] = {}

    def show(what: str, done: int, total: int) -> None:
        step, *detail = what.split(DETAIL, 1)
        text = DETAIL.join([(texts or {}).get(step, step), *detail])
        if step not in tasks:
            tasks[step] = bar.add_task(text, total=total)
        bar.update(tasks[step], description=text, completed=done, total=total)

    return show
