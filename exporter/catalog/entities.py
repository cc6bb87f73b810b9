"""The users' and items' tables: a row per id, texts and vectors in columns. And ids: one type, one row each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from rexit.errors import InputError
from rexit.exporter.catalog.chunks import blocks
from rexit.exporter.catalog.source_tables import read_table


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
        raise InputError(f"the {what}s file has no column {name!r}, which prompts name; it has: {columns}")
    if holds_vectors(entities[name]) != vectors:
        actual, expected = ("texts", "vectors") if vectors else ("vectors", "texts")
        raise InputError(f"the {what}s file: column {name!r} holds {actual}, prompts place {expected} of that name")
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
