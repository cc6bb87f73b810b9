"""Reads the user's tables: CSV, TSV or Parquet.

Rules
1. A file ending in `.parquet` is Parquet. Anything else is UTF-8 text with a header: tab-separated when the header holds a
   tab, else comma-separated. Quotes are special in comma-separated files only.
2. A header like RecBole's `user_id:token` names the column `user_id`. The type behind the colon is dropped, except
   `float_seq`: such cells are vectors, numbers separated by spaces. In Parquet a list of floats is a vector.
3. Every line has as many fields as the header.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import polars as pl

from rexit.delimited import is_tabbed, read_lines
from rexit.errors import InputError

Needs = Mapping[str, str]
"""Columns that a file must have, each with what asks for it: `{"rating": "--column rating=NAME"}`."""


def column_option(role: str) -> str:
    """The option that names the column of a role, for messages."""
    return f"--column {role}=NAME"


def read_table(path: Path, columns: Collection[str] | None = None) -> pl.DataFrame:
    """Reads a table as it is.

    Args:
        path: the file.
        columns: the columns to read; None: all.

    Returns:
        Cells of text as strings (empty cells are null) or lists of float32; Parquet cells unchanged.

    Raises:
        InputError: the file cannot be read, is empty or not a table, or lacks one of `columns`.
    """
    path = Path(path)
    with _readable(path):
        frame = _read_parquet(path, columns) if path.suffix == ".parquet" else _read_text(path, columns)
    # A cell that is no number becomes null. Whether that matters depends on whether a prompt places the column.
    vectors = [name for name in frame.columns if name.endswith(":float_seq") and frame.schema[name] == pl.String]
    frame = frame.with_columns(pl.col(vectors).str.extract_all(r"\S+").cast(pl.List(pl.Float32), strict=False))
    frame.columns = [_plain(name) for name in frame.columns]
    if frame.is_empty():
        raise InputError(f"{path}: has a header and no rows")
    return frame


def column_names(path: Path) -> list[str]:
    """The columns of a file, from its header alone. Raises InputError."""
    path = Path(path)
    with _readable(path):
        if path.suffix == ".parquet":
            return _unique(path, pl.read_parquet_schema(path))
        return _unique(path, next(read_lines(path))[1])


def check_columns(files: Mapping[Path, Needs]) -> None:
    """Raises InputError, naming every column that is missing in any of the files."""
    if lines := [line for path, needs in files.items() if (line := _missing(path, column_names(path), needs))]:
        raise InputError("; ".join(lines))


def _missing(path: Path, names: Sequence[str], needs: Needs) -> str | None:
    missing = [f"{name!r} ({reason})" if reason else repr(name) for name, reason in needs.items() if name not in names]
    if not missing:
        return None
    return f"{path}: no column{'s' if len(missing) > 1 else ''} {', '.join(missing)}, the file has: {', '.join(names)}"


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Raises InputError for an error of the file system or of Polars."""
    try:
        yield
    except OSError as exc:
        raise InputError(f"{path}: cannot be read: {exc.strerror or exc}") from exc
    except pl.exceptions.PolarsError as exc:
        raise InputError(f"{path}: not a readable table: {str(exc).splitlines()[0]}") from exc


def _plain(name: str) -> str:
    return name.strip().partition(":")[0]


def _unique(path: Path, header: Collection[str]) -> list[str]:
    """The header without types. Raises InputError for a name that is empty or not unique."""
    names = [_plain(name) for name in header]
    for name in names:
        if not name or names.count(name) > 1:
            raise InputError(
                f"{path}: column {name!r} appears {names.count(name)} times in the header, expected named, unique columns"
            )
    return names


def _places(path: Path, header: Collection[str], columns: Collection[str] | None) -> list[int]:
    """The positions of `columns` in the header. Raises InputError."""
    names = _unique(path, header)
    if columns is None:
        return list(range(len(names)))
    if line := _missing(path, names, dict.fromkeys(columns, "")):
        raise InputError(line)
    return [n for n, name in enumerate(names) if name in columns]


def _read_parquet(path: Path, columns: Collection[str] | None) -> pl.DataFrame:
    scan = pl.scan_parquet(path, glob=False)
    header = scan.collect_schema().names()
    return scan.select(header[n] for n in _places(path, header, columns)).collect()


def _read_text(path: Path, columns: Collection[str] | None) -> pl.DataFrame:
    lines = read_lines(path)
    _, header = next(lines)
    places = _places(path, header, columns)
    # Polars fills short lines with nulls silently, so the shape is checked here.
    for number, row in lines:
        if len(row) != len(header):
            raise InputError(f"{path}: line {number} has {len(row)} fields, the header has {len(header)}")
    quote, separator = (None, "\t") if is_tabbed(path) else ('"', ",")
    frame = pl.read_csv(path, columns=places, separator=separator, quote_char=quote, infer_schema=False, glob=False)
    frame.columns = [header[n].strip() for n in places]
    return frame
