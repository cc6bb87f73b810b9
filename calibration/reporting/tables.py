"""Tables of the page: what a template shows of each cell, and the same table, unrounded, as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

ABSENT = "-"

INTERVAL = ("", ", low", ", high")
"""How the CSV's titles of a value and the ends of its interval go on."""

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What text may not begin with in a spreadsheet: it would be computed."""


def text(value: Any) -> str:
    return str(value)


def yes(value: bool) -> str:
    return "yes" if value else "no"


def count(value: int) -> str:
    return f"{value:,}"


def share(value: float) -> str:
    return f"{100 * value:.1f} %"


def places(number: int) -> Callable[[float | None], str]:
    return lambda value: ABSENT if value is None else f"{value:.{number}f}"


def digits(number: int) -> Callable[[float], str]:
    return lambda value: f"{value:.{number}g}"


def threshold(value: float | str | None) -> str:
    return "never" if value is None else value if isinstance(value, str) else f"{value:.4f}"


def weights(value: Sequence[float]) -> str:
    return ", ".join(f"{weight:.4f}" for weight in value) or ABSENT


def interval(value: Sequence[float]) -> str:
    middle, low, high = value
    return f"{middle:.4f}\n{low:+.4f} to {high:+.4f}"


def value_and_drop(value: Sequence[float]) -> str:
    first, *drop = value
    if not any(drop):
        return f"{first:.4f}\nno drop"
    middle, ends = interval(drop).split("\n")
    return f"{first:.4f}\ndrop {middle}\n{ends}"


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        title: its head.
        get: a row's value: a key, or a function of the row.
        show: a cell's text from its value; lines after the first are secondary.
        parts: how the CSV's titles go on for each value of a cell that has several.
    """

    title: str
    get: str | Callable[[Any], Any]
    show: Callable[[Any], str] = text
    parts: tuple[str, ...] = ("",)

    @property
    def is_number(self) -> bool:
        """Whether it is right-aligned."""
        return self.show not in (text, yes)

    @property
    def is_text(self) -> bool:
        """Whether cells may be of any script and direction."""
        return self.show is text

    def value(self, row: Any) -> Any:
        """Returns the row's value."""
        return row[self.get] if isinstance(self.get, str) else self.get(row)

    def lines(self, row: Any) -> list[str]:
        """Returns the lines of the row's cell."""
        shown = self.show(self.value(row))
        return shown.split("\n") if self.is_number else [shown]


@dataclass(frozen=True)
class Table:
    """A table of the page.

    Attributes:
        name: of the CSV file, without its ending.
        caption: what it shows.
        rows: what the columns take their values from.
        columns: from left to right.
        chosen: the row to mark, by its first cell; None: no row.
    """

    name: str
    caption: str
    rows: Sequence[Any]
    columns: Sequence[Column]
    chosen: str | None = None

    @property
    def href(self) -> str:
        """The CSV as a link that holds it."""
        return f"data:text/csv;charset=utf-8,{quote(self._csv())}"

    def _csv(self) -> str:
        file = io.StringIO()
        writer = csv.writer(file)
        writer.writerow(column.title + part for column in self.columns for part in column.parts)
        for row in self.rows:
            cells = (column.value(row) if len(column.parts) > 1 else [column.value(row)] for column in self.columns)
            writer.writerow(_harmless(value) for cell in cells for value in cell)
        return file.getvalue()


def _harmless(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
