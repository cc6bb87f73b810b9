"""Where output goes: results to stdout (tables, or one JSON document with --json), progress and errors to stderr.

Tables fit the terminal: numbers to the right, text to the left, no header cut. A wider table goes on below, with its first column
again.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich import progress as rich_progress
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

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
    from rexit.format.bundle.files import json_values

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


_NUMBER = re.compile(r"([-+~]?\d[\d.,]*(e[-+]?\d+)?( ?(%|x|[kMG]B))?|-|NaN|)")
_MIN_TEXT = 20
"""A column of longer texts is at least this wide."""
_GAP = 2
"""Blanks between two columns."""


def counted(count: int, noun: str) -> str:
    """Returns a number and a noun that takes an s: `1 epoch`, `2 epochs`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def print_values(title: str, values: Mapping[str, object], header: str = "value") -> None:
    """Prints a table of named values on stdout. header: theirs."""
    print_table(title, [{"": name, header: value} for name, value in values.items()])


def print_table(title: str, rows: Sequence[Mapping[str, object]]) -> None:
    """Prints a table on stdout.

    Args:
        title: The line above it.
        rows: Cells by the headers of their columns, which all rows have in common. The first column names the rows. Floats are
            rounded to four digits.
    """
    columns = list(rows[0]) if rows else []
    cells = [[f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row.values()] for row in rows]
    numeric = [n > 0 and all(_NUMBER.fullmatch(row[n]) for row in cells) for n in range(len(columns))]
    least, natural = [], []
    for n, column in enumerate(columns):
        longest = max((len(row[n]) for row in cells), default=0)
        word = max(map(len, column.split()), default=0)
        least.append(max(word, longest if numeric[n] else min(longest, _MIN_TEXT)))
        natural.append(max(len(column), longest))
    stdout.print(title, style="bold")  # not the table's own, which would wrap at the table's width
    for part in _parts(least, stdout.width) if rows else ():
        table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
        for n, width in _widths(part, least, natural, stdout.width).items():
            table.add_column(columns[n], justify="right" if numeric[n] else "left", width=width, overflow="fold")
        for row in cells:
            table.add_row(*(row[n] for n in part))
        stdout.print(table, soft_wrap=False)
        stdout.print()


def _parts(least: Sequence[int], room: int) -> list[list[int]]:
    """The columns of each table, by their numbers, so that it fits into `room` characters."""
    parts = [[0]]
    for n in range(1, len(least)):
        if len(parts[-1]) > 1 and sum(least[m] + _GAP for m in parts[-1]) + least[n] > room:
            parts.append([0])
        parts[-1].append(n)
    return parts


def _widths(part: Sequence[int], least: Sequence[int], natural: Sequence[int], room: int) -> dict[int, int]:
    """The width of each column of a table, by its number. Columns that lack the fewest characters get the rest of `room` first.

    Rich alone narrows the widest columns, and then cuts the table.
    """
    rest = room - sum(least[n] for n in part) - _GAP * (len(part) - 1)
    widths = {n: least[n] for n in part}
    for n in sorted(part, key=lambda n: natural[n] - least[n]):
        more = max(0, min(rest, natural[n] - least[n]))
        widths[n], rest = least[n] + more, rest - more
    return widths
