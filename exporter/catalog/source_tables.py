"""Reads the user's tables, CSV, TSV or Parquet, into a row per id with texts and vectors in columns.

Rules
1. A file ending in `.parquet` is Parquet. Anything else is UTF-8 text with a header: tab-separated when the header holds a
   tab, else comma-separated. Quotes are special in comma-separated files only.
2. A header like RecBole's `user_id:token` names the column `user_id`. The type behind the colon is dropped, except
   `float_seq`: such cells are vectors, numbers separated by spaces. In Parquet a list of floats is a vector.
3. Every line has as many fields as the header.

Columns of vectors hold an external encoder's vector of each item, stored as `encoded.safetensors` (docs/format.md).

1. All vectors of a column have the same number of finite numbers. The encoder does not matter here.
2. Vectors are scaled to unit length, then rounded to float16, as projectors take them.
3. An item without a vector (null, an empty list, an empty cell) has zeros.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from rexit.data.delimited import is_tabbed, read_lines
from rexit.errors import InputError
from rexit.exporter.catalog.catalog_files import blocks, write_tensors
from rexit.format.bundle.files import FileEntry
from rexit.format.bundle.vectors import MAX_WIDTH

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


def read_entities(path: Path, id_column: str) -> pl.DataFrame:
    """Reads the users' or items' file.

    Args:
        path: CSV, TSV or Parquet.
        id_column: the column of ids, which the file has.

    Returns:
        A row per user or item: the id in the column `id`, columns of vectors as lists of float32, every other column as text.
        Missing values are null; lists of other types are joined with ", ".

    Raises:
        InputError: the file cannot be read, or holds an id twice.
    """
    frame = read_table(path)
    ids = id_values(frame[id_column], path)
    if len(double := ids.filter(ids.is_duplicated())):
        raise InputError(f"{path}: id {double[0]!r} appears {(ids == double[0]).sum()} times, expected once")
    cells = {column.name: _cells(column, path) for column in frame.iter_columns() if column.name != id_column}
    if "id" in cells:  # it would hide the id column
        raise InputError(f"{path}: column 'id' is not the id column {id_column!r}: rename it")
    return pl.DataFrame({"id": ids, **cells})


def id_values(column: pl.Series, path: Path) -> pl.Series:
    """A column of ids, integers or strings. Raises InputError for another type or a missing id."""
    if not (column.dtype.is_integer() or column.dtype in (pl.String, pl.Categorical)):
        raise InputError(f"{path}: column {column.name!r} holds {column.dtype}, expected integers or strings")
    if column.dtype == pl.Categorical:
        column = column.cast(pl.String)
    invalid = column.is_null() | (column == "").fill_null(False) if column.dtype == pl.String else column.is_null()
    check_rows(invalid, column, path, "an id")
    return column


def check_rows(invalid: pl.Series, values: pl.Series, path: Path, expected: str) -> None:
    """Raises InputError for the first row where `invalid` is true."""
    if (row := invalid.arg_max()) is not None and invalid[row]:
        raise InputError(f"{path}: row {row + 1}: {values.name!r} is {values[row]!r}, expected {expected}")


def holds_vectors(column: pl.Series) -> bool:
    """Whether a column holds a list of floats in each row."""
    return isinstance(column.dtype, pl.List | pl.Array) and column.dtype.inner.is_float()


def column_of(entities: pl.DataFrame, name: str, what: str, vectors: bool = False) -> pl.Series:
    """A column that prompts place.

    Args:
        entities: the result of `read_entities`.
        name: the column.
        what: `user` or `item`, for messages.
        vectors: whether prompts place it as vectors; otherwise as text.

    Raises:
        InputError: there is no such column, or it holds the other kind.
    """
    if name not in entities.columns:
        columns = ", ".join(column for column in entities.columns if column != "id")
        reader = "exit zero or a prompt reads" if vectors else "prompts name"
        raise InputError(f"the {what}s file has no column {name!r}, which {reader}; it has: {columns}")
    if holds_vectors(entities[name]) != vectors:
        actual, expected = ("texts", "vectors") if vectors else ("vectors", "texts")
        raise InputError(f"the {what}s file: column {name!r} holds {actual}, the template reads {expected} of that name")
    return entities[name]


def _cells(column: pl.Series, path: Path) -> pl.Series:
    if holds_vectors(column):
        return column.cast(pl.List(pl.Float32))
    if isinstance(column.dtype, pl.List) and not column.dtype.inner.is_nested():
        column = column.cast(pl.List(pl.String)).list.join(", ")
    return texts_of(column, path)


def texts_of(values: pl.Series, path: Path) -> pl.Series:
    """Cells as text without outer spaces; null where there is none. Raises InputError for a type without a text form."""
    try:
        if values.dtype.is_nested() or values.dtype == pl.Object:  # a struct's text would be braces and quotes
            raise pl.exceptions.InvalidOperationError
        texts = values.cast(pl.String).str.strip_chars()
    except pl.exceptions.PolarsError as exc:
        raise InputError(f"{path}: column {values.name!r} holds {values.dtype}, which has no text form") from exc
    return pl.select(pl.when(texts != "").then(texts).alias(values.name)).to_series()


def unify_ids(columns: Sequence[pl.Series]) -> list[pl.Series]:
    """Ids of several files as one type: int64 if every id is written as a plain int64, else strings."""
    if all(_are_integers(column) for column in columns):
        return [column.cast(pl.Int64) for column in columns]
    return [column.cast(pl.String) for column in columns]


def _are_integers(column: pl.Series) -> bool:
    if column.dtype.is_integer():
        return bool(column.cast(pl.Int64, strict=False).is_not_null().all())
    # "007" and "+7" are not the integer 7: two ids must never become one.
    return bool((column.cast(pl.Int64, strict=False).cast(pl.String) == column).fill_null(False).all())


def rows_of(values: pl.Series, ids: pl.Series, what: str, path: Path, entities: Path) -> pl.Series:
    """The row of each value in `ids`.

    Args:
        values: ids to look up.
        ids: all ids, ascending and unique.
        what, path, entities: `user` or `item`, the file of the values and the file of the ids, for messages.

    Returns:
        Rows, int32, in the order of `values`.

    Raises:
        InputError: a value is not among the ids.
    """
    rows = match(values, ids)
    if rows.null_count():
        missing = values.filter(rows.is_null())
        count = f"{missing.n_unique()} such {what}s in {len(missing)} interactions"
        raise InputError(f"{path}: {what} {missing[0]!r} is not in {entities} ({count})")
    return rows


def match(values: pl.Series, ids: pl.Series) -> pl.Series:
    """The row of each value in `ids`, of one type and each once: int32, null where there is none."""
    table = pl.DataFrame({"id": ids, "row": pl.int_range(len(ids), dtype=pl.Int32, eager=True)})
    parts = [
        pl.DataFrame({"id": values[rows]}).join(table, on="id", how="left", maintain_order="left")["row"]
        for rows in blocks(len(values))
    ]
    return pl.concat([pl.Series("row", [], pl.Int32), *parts], rechunk=True)


ENCODED = "encoded.safetensors"

Encoded = Mapping[str, NDArray[np.float16]]
"""Vectors [I, D] by column."""


def vector_rows(column: pl.Series, ids: pl.Series, dim: int | None = None) -> NDArray[np.float16]:
    """A column of vectors, at unit length.

    Args:
        column: lists of float32, one per item.
        ids: the items' ids, for messages.
        dim: the width that the catalog has; None: that of the first vector.

    Returns:
        float16 [n, D].

    Raises:
        InputError: names the column and the first item at fault.
    """
    where, widths = f"the items file: column {column.name!r}", column.list.len().fill_null(0)
    present = widths > 0
    ids_present = ids.filter(present)
    if dim is None and ids_present.is_empty():
        raise InputError(f"{where}: no item has a vector, expected at least one")
    expected = widths.filter(present)[0] if dim is None else dim
    if expected > MAX_WIDTH:
        raise InputError(f"{where}: item {ids_present[0]!r} has {expected} numbers, expected 1 to {MAX_WIDTH}")
    wrong = present & (widths != expected)
    if wrong.any():
        row, owner = int(wrong.to_numpy().argmax()), f"item {ids_present[0]!r}" if dim is None else "each of the catalog's"
        raise InputError(f"{where}: item {ids[row]!r} has {widths[row]} numbers, {owner} has {expected}")
    # A missing number becomes NaN.
    numbers = column.filter(present).explode().cast(pl.Float32).to_numpy(writable=True).reshape(-1, expected)
    if not (finite := np.isfinite(numbers).all(1)).all():
        raise InputError(f"{where}: item {ids_present[int(finite.argmin())]!r} has a number that is not finite")
    lengths = np.sqrt(np.einsum("ij,ij->i", numbers, numbers, dtype=np.float64))[:, None]
    numbers /= np.where(lengths > 0, lengths, 1)
    vectors = np.zeros((len(column), expected), np.float16)
    vectors[present.to_numpy()] = numbers
    return vectors


def extended_vectors(
    before: Encoded, items: pl.DataFrame | None, item_rows: NDArray[np.int64], old_rows: NDArray[np.int64], count: int
) -> Encoded:
    """The columns of vectors of an updated catalog.

    Args:
        before: those of the catalog before.
        items: `id` and columns of new items and of items whose vectors changed; None: no such file.
        item_rows: int64 [n], the new catalog's row of each of `items`.
        old_rows: int64 [I], the new catalog's row of each of its items.
        count: items of the new catalog.

    Raises:
        InputError: as `vector_rows`; a column is missing.
    """
    extended = {}
    for name, rows in before.items():
        extended[name] = np.zeros((count, rows.shape[1]), np.float16)
        extended[name][old_rows] = rows
        if items is not None:
            extended[name][item_rows] = vector_rows(column_of(items, name, "item", vectors=True), items["id"], rows.shape[1])
    return extended


def write_vectors(folder: Path, vectors: Encoded) -> dict[str, Any]:
    """Writes the file if there are columns of vectors. Returns its entry for catalog.json. Raises InputError."""
    if not vectors:
        return {}
    write_tensors(folder / ENCODED, dict(vectors))
    return {"encoded": {"path": ENCODED, **FileEntry.of(folder / ENCODED).to_json()}}
