"""Tables of the page: HTML, and a link to the same as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any
from urllib.parse import quote

ABSENT = "-"

THREE = ("", ", low", ", high")
"""Titles of a value and the ends of its interval go on like this."""

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What text may not begin with in a spreadsheet: it would be computed."""


@dataclass(frozen=True)
class Column:
    """show: a cell's text from its value; lines after the first are secondary. parts: how the title goes on for each value of a
    cell that has several."""

    title: str
    show: Callable[[Any], str]
    parts: tuple[str, ...] = ("",)


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


def interval(value: Sequence[float]) -> str:
    middle, low, high = value
    return f"{middle:.4f}\n{low:+.4f} to {high:+.4f}"


def value_and_drop(value: Sequence[float]) -> str:
    first, *drop = value
    if not any(drop):
        return f"{first:.4f}\nno drop"
    middle, ends = interval(drop).split("\n")
    return f"{first:.4f}\ndrop {middle}\n{ends}"


TEXTS = (text, yes)
"""Columns of these stand on the left."""


def table(name: str, caption: str, columns: Sequence[Column], rows: Iterable[Sequence[Any]], chosen: str | None = None) -> str:
    """The table and its CSV, unrounded, of this name. chosen: what the first cell of a row to be marked says."""
    rows = list(rows)
    head = "".join(f'<th scope="col"{_side(column)}>{escape(column.title)}</th>' for column in columns)
    body = "".join(
        ('<tr class="chosen">' if row[0] == chosen else "<tr>")
        + "".join(_cell(n, *pair) for n, pair in enumerate(zip(columns, row, strict=True)))
        + "</tr>\n"
        for row in rows
    )
    titled = escape(caption)
    return (
        f'<div class="table" role="region" tabindex="0" aria-label="{titled}"><table><caption><span>{titled}</span></caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>\n"
        f'<p class="csv"><a download="{escape(name)}.csv" href="data:text/csv;charset=utf-8,{quote(_csv(columns, rows))}">'
        "This table as CSV</a></p>\n"
    )


def _side(column: Column) -> str:
    return "" if column.show in TEXTS else ' class="number"'


def _cell(n: int, column: Column, value: Any) -> str:
    first, *more = [column.show(value)] if column.show in TEXTS else column.show(value).split("\n")
    shown = f"<bdi>{escape(first)}</bdi>" if column.show is text else escape(first)  # of any script and direction
    inside = shown + "".join(f"<small>{escape(line)}</small>" for line in more)
    return f'<th scope="row"{_side(column)}>{inside}</th>' if n == 0 else f"<td{_side(column)}>{inside}</td>"


def _csv(columns: Sequence[Column], rows: Iterable[Sequence[Any]]) -> str:
    file = io.StringIO()
    write = csv.writer(file)
    write.writerow(column.title + part for column in columns for part in column.parts)
    for row in rows:
        cells = (value if len(column.parts) > 1 else [value] for column, value in zip(columns, row, strict=True))
        write.writerow(_harmless(value) for cell in cells for value in cell)
    return file.getvalue()


def _harmless(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
