"""Text tables with a header, as every command reads them: UTF-8; tab-separated without quotes if the header has a tab, else
comma-separated."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rexit.errors import InputError

_BLOCK = 1 << 10
"""Lines read at once."""


def is_tabbed(path: Path) -> bool:
    """Returns whether the file is tab-separated. Raises OSError, InputError."""
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        return "\t" in file.readline()


def read_lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yields the number of each row's last line, from 1, and its cells, which may have any length. The header comes first.

    Raises:
        OSError: The file cannot be read.
        InputError: It has no header, is not UTF-8, or has an unclosed quote.
    """
    tabs = is_tabbed(path)
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, "excel-tab", quoting=csv.QUOTE_NONE) if tabs else csv.reader(file, strict=True)
        try:
            rows = _next_rows(reader)
            if not rows or not any(cell.strip() for cell in rows[0][1]):
                raise InputError(f"{path}: empty, expected a header line")
            while rows:
                yield from rows
                rows = _next_rows(reader)
        except UnicodeDecodeError as exc:
            raise InputError(f"{path}: line {_first_not_utf8(path)}: not UTF-8") from exc
        except csv.Error as exc:
            raise InputError(f"{path}: line {reader.line_num}: {exc}") from exc


def _next_rows(reader: Any) -> list[tuple[int, list[str]]]:
    """The csv module's limit on a cell's length is global to the process, so it is restored."""
    before = csv.field_size_limit(2**31 - 1)
    try:
        return [(reader.line_num, row) for row in itertools.islice(reader, _BLOCK)]
    finally:
        csv.field_size_limit(before)


def _first_not_utf8(path: Path) -> int:
    """Returns the number of the first line that is not UTF-8. A decoder reads ahead, so it cannot tell."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    raise AssertionError(f"{path} is UTF-8")
