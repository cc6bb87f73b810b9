"""Tables that fit the terminal: numbers to the right, text to the left, no header cut.

A table that is wider than the terminal goes on below, with its first column again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from rexit.cli.common.output import stdout

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
