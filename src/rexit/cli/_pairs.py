"""A file of pairs to score: users, items and times with the catalog's types, every other column unchanged.

CSV is read as text, so that an id is exactly what the file says. Parquet needs polars, which `pip install rexit` alone does not
bring.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from rexit.cli._ids import first_few, parse_id
from rexit.errors import InputError

if TYPE_CHECKING:
    import polars as pl

    from rexit.bundle import Catalog
    from rexit.bundle.catalog import Id

P = ParamSpec("P")
T = TypeVar("T")

FORMATS = (".csv", ".parquet")


@dataclass(frozen=True)
class ColumnNames:
    """Names of the columns that scoring reads; the file may lack `as_of`."""

    user: str = "user"
    item: str = "item"
    as_of: str = "as_of"


@dataclass(frozen=True)
class Pairs:
    """One entry per row, in the file's order. `cells` are the values of all columns (text if the file is CSV), `frame` the same
    of a Parquet file."""

    columns: ColumnNames
    header: tuple[str, ...]
    cells: Sequence[Sequence[Any]]
    frame: pl.DataFrame | None
    users: list[Id]
    items: list[Id]
    times: list[int | None]

    def slates(self) -> dict[tuple[Id, int | None], list[int]]:
        """The rows of each user and time, which are scored together."""
        slates: dict[tuple[Id, int | None], list[int]] = {}
        for row, key in enumerate(zip(self.users, self.times, strict=True)):
            slates.setdefault(key, []).append(row)
        return slates


def check_format(path: Path) -> None:
    """Raises InputError for a file whose name is neither CSV nor Parquet, or is Parquet where polars is missing."""
    if path.suffix not in FORMATS:
        raise InputError(f"{path}: the name ends in {path.suffix!r}, expected .csv or .parquet")
    if path.suffix == ".parquet":
        try:
            import polars  # noqa: F401
        except ImportError as exc:
            raise InputError(f"{path}: Parquet needs polars, .csv does not: pip install 'rexit[calibrate]'") from exc


def read_pairs(path: Path, columns: ColumnNames, as_of: int | None, added: Sequence[str], catalog: Catalog) -> Pairs:
    """Everything that can be wrong with the file is found here; rows count from 1, without the header. `as_of` applies to every
    row if the file has no such column; `added` are columns that it must not have yet. Raises InputError."""
    check_format(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    frame = _read_parquet(path) if path.suffix == ".parquet" else None
    header, cells = _read_csv(path) if frame is None else (frame.columns, frame.rows())
    if not cells:
        raise InputError(f"{path}: has no rows")
    _check_header(path, header, columns, added)
    timed = columns.as_of in header
    if timed and as_of is not None:
        raise InputError(f"--as-of and the column {columns.as_of!r} of {path} both give a time, expected one")

    kinds = catalog.info["ids"]
    users = [_at(path, n, parse_id, str(value), kinds["user"], "user") for n, value in _column(path, header, cells, columns.user)]
    items = [_at(path, n, parse_id, str(value), kinds["item"], "item") for n, value in _column(path, header, cells, columns.item)]
    times: list[int | None] = [as_of] * len(users)
    if timed:
        times = [_at(path, n, _time, value, columns.as_of) for n, value in _column(path, header, cells, columns.as_of)]
    _check_items(path, items, catalog)
    return Pairs(columns, tuple(header), cells, frame, users, items, times)


def _read_csv(path: Path) -> tuple[list[str], list[list[str]]]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, None)
            if header is None:
                raise InputError(f"{path}: empty, expected a header line")
            cells = [row for row in reader if row]
    except UnicodeDecodeError as exc:
        raise InputError(f"{path}: not UTF-8 at byte {exc.start}") from exc
    except csv.Error as exc:
        raise InputError(f"{path}: line {reader.line_num}: {exc}") from exc
    for n, row in enumerate(cells, 1):
        if len(row) != len(header):
            raise InputError(f"{path}: row {n} has {len(row)} fields, the header has {len(header)}")
    return header, cells


def _read_parquet(path: Path) -> pl.DataFrame:
    import polars as pl

    try:
        return pl.read_parquet(path)
    except pl.exceptions.PolarsError as exc:
        raise InputError(f"{path}: cannot be read as Parquet: {str(exc).splitlines()[0]}") from exc


def _check_header(path: Path, header: Sequence[str], columns: ColumnNames, added: Sequence[str]) -> None:
    for name, role in ((columns.user, "user"), (columns.item, "item")):
        if name not in header:
            raise InputError(f"{path}: no column {name!r} ({role}), it has: {', '.join(header)}")
    for name in header:
        if header.count(name) > 1:
            raise InputError(f"{path}: column {name!r} appears {header.count(name)} times in the header, expected unique names")
        if name in added:
            raise InputError(f"{path}: already has a column {name!r}, which this command adds")


def _column(path: Path, header: Sequence[str], cells: Sequence[Sequence[Any]], name: str) -> Iterator[tuple[int, Any]]:
    """A column's values with their row numbers."""
    at = header.index(name)
    for n, row in enumerate(cells, 1):
        if row[at] is None or row[at] == "":
            raise InputError(f"{path}: row {n}: `{name}` is missing")
        yield n, row[at]


def _at(path: Path, n: int, read: Callable[P, T], *words: P.args, **keywords: P.kwargs) -> T:
    try:
        return read(*words, **keywords)
    except InputError as exc:
        raise InputError(f"{path}: row {n}: {exc}") from exc


def _time(value: Any, name: str) -> int:
    try:
        time = int(value) if isinstance(value, int | str) else None
    except ValueError:
        time = None
    if time is None or not -(1 << 63) <= time < 1 << 63:
        raise InputError(f"`{name}` is {value!r}, expected a 64-bit integer")
    return time


def _check_items(path: Path, items: Sequence[Id], catalog: Catalog) -> None:
    unique = list(dict.fromkeys(items))
    unknown = [item for item, row in zip(unique, catalog.items.find(unique).tolist(), strict=True) if row < 0]
    if unknown:
        named = first_few(unknown, name=lambda item: f"{item!r} (row {items.index(item) + 1})")
        are = "item is" if len(unknown) == 1 else "items are"
        raise InputError(f"{path}: {len(unknown)} {are} not in the catalog: {named}")
