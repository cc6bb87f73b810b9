"""Where output goes: results to stdout (a table, or one JSON document with --json), progress and errors to stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer
from rich import progress as rich_progress
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from rexit import interrupts
from rexit.progress import Progress

_WIDE = 160
"""Columns for a file or a pipe, which has no width of its own: wide enough for every table."""

# Ids, titles and paths are printed as they are: `[/b]` and `:x:` are not markup in them.
stdout = Console(
    highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else _WIDE
)
stderr = Console(stderr=True, highlight=False, markup=False, emoji=False)

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]

DeviceOption = Annotated[
    str | None, typer.Option(help="cpu, cuda or tensorrt. Default: the variant's own. The CPU runs every variant's graphs.")
]


def print_json(value: Any) -> None:
    """One JSON document on stdout. Numbers that JSON cannot hold become null."""
    from rexit.bundle.files import json_values

    print(json.dumps(json_values(value), indent=1, ensure_ascii=False, default=str, allow_nan=False))


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table whose first column is text and whose others are numbers, right-aligned."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for n, column in enumerate(columns):
        table.add_column(column, justify="left" if n == 0 else "right", no_wrap=n == 0)
    for row in rows:
        table.add_row(*(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row))
    stdout.print(title, style="bold")  # not the table's own, which would wrap at the table's width
    stdout.print(table)


class _Interruptible(rich_progress.Progress):
    """If a signal's exception went astray, the next step raises it again."""

    def update(self, *words: Any, **keywords: Any) -> None:
        interrupts.check()
        super().update(*words, **keywords)

    def advance(self, *words: Any, **keywords: Any) -> None:
        interrupts.check()
        super().advance(*words, **keywords)


def progress() -> rich_progress.Progress:
    """A progress display on stderr; it disappears when it is done, and stays silent if stderr is not a terminal."""
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


def shown(bar: rich_progress.Progress) -> Progress:
    """A Progress that shows one line in the display for each step."""
    tasks: dict[str, rich_progress.TaskID] = {}

    def show(what: str, done: int, total: int) -> None:
        if what not in tasks:
            tasks[what] = bar.add_task(what, total=total)
        bar.update(tasks[what], completed=done, total=total)

    return show
