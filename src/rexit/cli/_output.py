"""Where output goes: results to stdout (a table, or one JSON document with --json), progress and errors to stderr."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from rexit import interrupts

_WIDE = 160
"""Columns of a file or a pipe, which has no width of its own: wide enough for every table's figures."""

# Ids, titles and paths are printed as they are: `[/b]` and `:x:` are no markup in them.
stdout = Console(
    highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else _WIDE
)
stderr = Console(stderr=True, highlight=False, markup=False, emoji=False)

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]

DeviceOption = Annotated[
    str | None, typer.Option(help="cpu, cuda or tensorrt; the variant's own if not given. The CPU runs every variant's graphs.")
]


def print_json(value: Any) -> None:
    """One JSON document on stdout. Numbers that JSON has no word for become null."""
    print(json.dumps(_plain(value), indent=1, ensure_ascii=False, default=str, allow_nan=False))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table whose first column is text and whose others are numbers, right-aligned."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for n, column in enumerate(columns):
        table.add_column(column, justify="left" if n == 0 else "right", no_wrap=n == 0)
    for row in rows:
        table.add_row(*(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row))
    stdout.print(title, style="bold")  # not the table's own, which would wrap at the table's width
    stdout.print(table)


class _Progress(Progress):
    """Where a signal's exception went astray, the next step raises it again."""

    def update(self, *words: Any, **keywords: Any) -> None:
        interrupts.check()
        super().update(*words, **keywords)

    def advance(self, *words: Any, **keywords: Any) -> None:
        interrupts.check()
        super().advance(*words, **keywords)


def progress() -> Progress:
    """A progress display on stderr; it disappears when it is done, and is silent where stderr is no terminal."""
    return _Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=stderr,
        transient=True,
        disable=not stderr.is_terminal,
    )


def teller(bar: Progress) -> Callable[[str, int, int], None]:
    """Shows what is being done and how much of it: one line for each name it is told."""
    tasks: dict[str, TaskID] = {}

    def tell(what: str, done: int, total: int) -> None:
        if what not in tasks:
            tasks[what] = bar.add_task(what, total=total)
        bar.update(tasks[what], completed=done, total=total)

    return tell
