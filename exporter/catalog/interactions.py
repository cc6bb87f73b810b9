"""Reading the user's tables: interactions, items and users from CSV, TSV or Parquet.

Rules
1. A file ending in `.parquet` is Parquet. Anything else is UTF-8 text with a header: tab-separated when the header holds a
   tab, else comma-separated. Quotes mean something in comma-separated files only.
2. A header like RecBole's `user_id:token` names the column `user_id`; what follows the colon is its type and is dropped. Only
   `float_seq` counts: the cells are numbers with spaces between them, a vector each. In Parquet a list of floats is one.
3. Every line has as many fields as the header.
4. Ids are integers when every id of the kind (in all files) is written as a plain int64, else strings.
5. An interaction has a user, an item, a finite rating (unless feedback is implicit) and a time (unless the order is another), as
   `rexit.times` reads it: all whole numbers, or all ISO 8601 text, dates or datetimes, whatever the first row has.
"""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from rexit.bundle.catalog import SPLITS
from rexit.errors import InputError
from rexit.exporter.options import IndexOptions
from rexit.times import EXPECTED, TICKS, microseconds, unit_of, whole_number


def read_table(path: Path, wanted: Collection[str] | None = None) -> pl.DataFrame:
    """A table as it stands: cells of text as strings (empty ones null) or lists of floats, of Parquet as they are.

    wanted: the columns that are read; None: all. Where one is missing all are, so that they can be named. Raises InputError.
    """
    path = Path(path)
    try:
        frame = _read_parquet(path, wanted) if path.suffix == ".parquet" else _read_text(path, wanted)
    except OSError as exc:
        raise InputError(f"{path}: cannot be read: {exc.strerror or exc}") from exc
    except pl.exceptions.PolarsError as exc:
        raise InputError(f"{path}: not a readable table: {str(exc).splitlines()[0]}") from exc
    names = [name.partition(":")[0] for name in frame.columns]
    for name in names:
        if not name or names.count(name) > 1:
            raise InputError(
                f"{path}: column {name!r} stands {names.count(name)} times in the header, expected named, unique columns"
            )
    vectors = [name for name in frame.columns if name.endswith(":float_seq") and frame.schema[name] == pl.String]
    # What is no number becomes null here: whether that matters depends on whether anybody asks for the column.
    frame = frame.with_columns(pl.col(vectors).str.extract_all(r"\S+").cast(pl.List(pl.Float32), strict=False))
    frame.columns = names
    if frame.is_empty():
        raise InputError(f"{path}: has a header and no rows")
    return frame


def _chosen(names: Sequence[str], wanted: Collection[str] | None) -> list[int]:
    known = [name.partition(":")[0] for name in names]
    if wanted is None or not set(wanted) <= set(known):
        return list(range(len(names)))
    return [n for n, name in enumerate(known) if name in wanted]


def _read_parquet(path: Path, wanted: Collection[str] | None) -> pl.DataFrame:
    scan = pl.scan_parquet(path, glob=False)
    names = scan.collect_schema().names()
    return scan.select(names[n] for n in _chosen(names, wanted)).collect()


def _read_text(path: Path, wanted: Collection[str] | None) -> pl.DataFrame:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file, _long_cells():
            header = file.readline()
            if not header.strip():
                raise InputError(f"{path}: empty, expected a header line")
            separator = "\t" if "\t" in header else ","
            quoted = separator == ","
            file.seek(0)
            # Polars fills short lines with nulls without a word, so the shape is checked here.
            reader = csv.reader(file, delimiter=separator, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE, strict=quoted)
            names = next(reader)
            for row in reader:
                if len(row) != len(names):
                    raise InputError(f"{path}: line {reader.line_num} has {len(row)} fields, the header has {len(names)}")
    except UnicodeDecodeError as exc:
        raise InputError(f"{path}: not UTF-8 at byte {exc.start}") from exc
    except csv.Error as exc:
        raise InputError(f"{path}: line {reader.line_num}: {exc}") from exc
    names = [name.strip() for name in names]
    if len(set(names)) < len(names):  # Polars would rename the second one.
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{path}: column {twice!r} stands {names.count(twice)} times in the header, expected unique columns")
    chosen = _chosen(names, wanted)
    quote = '"' if quoted else None
    frame = pl.read_csv(path, columns=chosen, separator=separator, quote_char=quote, infer_schema=False, glob=False)
    frame.columns = [names[n] for n in chosen]
    return frame


@contextlib.contextmanager
def _long_cells() -> Iterator[None]:
    """Cells of any length for the csv module, whose limit is the whole process's."""
    before = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _column(frame: pl.DataFrame, name: str, path: Path, option: str) -> pl.Series:
    if name not in frame.columns:
        raise InputError(f"{path}: no column {name!r} ({option}), the file has: {', '.join(frame.columns)}")
    return frame[name]


def _refuse(bad: pl.Series, values: pl.Series, path: Path, expected: str) -> None:
    """Raises for the first row where `bad` holds."""
    if (row := bad.arg_max()) is not None and bad[row]:
        raise InputError(f"{path}: row {row + 1}: {values.name!r} is {values[row]!r}, expected {expected}")


def _ids(frame: pl.DataFrame, name: str, path: Path, option: str) -> pl.Series:
    values = _column(frame, name, path, option)
    if not (values.dtype.is_integer() or values.dtype in (pl.String, pl.Categorical)):
        raise InputError(f"{path}: column {name!r} holds {values.dtype}, expected integers or strings")
    if values.dtype == pl.Categorical:
        values = values.cast(pl.String)
    bad = values.is_null() | (values == "").fill_null(False) if values.dtype == pl.String else values.is_null()
    _refuse(bad, values, path, "an id")
    return values


def read_interactions(path: Path, options: IndexOptions, all: bool = True) -> pl.DataFrame:
    """`user`, `item` (ids as they stand), `time` (int64; Datetime, of UTC, where the file has dates), `liked` bool, in the file's
    order; `split` where a column says it.

    all: the file holds all interactions there are, so it must have likes and others."""
    columns = options.columns
    wanted = {columns.user, columns.item}
    if not options.implicit:
        wanted.add(columns.rating)
    if options.order == "time":
        wanted.add(columns.time)
    if columns.split is not None:
        wanted.add(columns.split)
    frame = read_table(path, wanted)
    read = {
        "user": _ids(frame, columns.user, path, "--user-column"),
        "item": _ids(frame, columns.item, path, "--item-column"),
        "liked": _likes(frame, path, options, all),
        "time": _times(frame, path, options),
    }
    if columns.split is not None:
        read["split"] = _splits(_column(frame, columns.split, path, "--split-column"), path)
    return pl.DataFrame(read)


def without_repeats(interactions: pl.DataFrame, repeats: str, path: Path) -> pl.DataFrame:
    """Interactions of `read_interactions`, each `user`, `item` and `time` once: the last row in the file holds. With `first` of
    `repeats` each user and item once: what came first. Raises InputError naming `path` for one that is in two splits."""
    same = ["user", "item", "time"]
    if "split" in interactions.columns:
        splits = interactions.group_by(same, maintain_order=True).agg(pl.col("split").unique().sort())
        if len(torn := splits.filter(pl.col("split").list.len() > 1)):
            user, item, time, names = torn.row(0)
            raise InputError(
                f"{path}: user {user!r} and item {item!r} at time {time} are in {' and '.join(names)}, expected one split"
            )
    once = interactions.unique(same, keep="last", maintain_order=True)
    if repeats == "all":
        return once
    return once.sort("time", maintain_order=True).unique(["user", "item"], keep="first", maintain_order=True)


def _likes(frame: pl.DataFrame, path: Path, options: IndexOptions, all: bool) -> pl.Series:
    if options.implicit:
        return pl.repeat(True, len(frame), eager=True)
    raw = _column(frame, options.columns.rating, path, "--rating-column; --implicit if there are no ratings")
    rating = raw.cast(pl.Float64, strict=False)
    _refuse(~rating.is_finite().fill_null(False), raw, path, "a finite number")
    liked = rating >= options.least_like
    if all and (liked.all() or not liked.any()):
        which = "every rating is a like" if liked.all() else "no rating is a like"
        low, high = np.min(rating.to_numpy()), np.max(rating.to_numpy())
        raise InputError(
            f"{path}: {which}: {raw.name!r} is {low:g} to {high:g}, a like is at least {options.least_like:g}: "
            "choose another --positive-at, or --implicit if whoever is in the file liked what they met"
        )
    return liked


def _times(frame: pl.DataFrame, path: Path, options: IndexOptions) -> pl.Series:
    """Without times the order stands for them: places in the file, or in a drawn order."""
    if options.order == "file":
        return pl.int_range(len(frame), eager=True)
    if options.order == "random":
        return pl.Series(np.random.default_rng(options.seed).permutation(len(frame)))
    raw = _column(frame, options.columns.time, path, "--time-column; --order if there are no times")
    if raw.dtype in (pl.Datetime, pl.Date):
        moments = raw.dt.epoch("us").cast(_MOMENT)
        _refuse(moments.is_null(), raw, path, EXPECTED)
        return moments
    if not (raw.dtype.is_numeric() or raw.dtype in (pl.String, pl.Categorical, pl.Enum)):
        raise InputError(f"{path}: column {raw.name!r} holds {raw.dtype}, expected whole numbers, dates or ISO 8601 text")
    if raw.dtype.is_integer():
        numbers = raw.cast(pl.Int64, strict=False)
    else:
        numbers = _by_value(raw, whole_number)
        if numbers[0] is None and raw[0] is not None and microseconds(str(raw[0])) is not None:
            moments = _by_value(raw, microseconds).cast(_MOMENT)
            _refuse(moments.is_null(), raw, path, f"{EXPECTED}, as row 1 has")
            return moments
    _refuse(numbers.is_null(), raw, path, f"a whole number, or in all rows {EXPECTED}")
    return numbers


_MOMENT = pl.Datetime("us")


def _by_value(raw: pl.Series, parse: Callable[[object], int | None]) -> pl.Series:
    """Int64: each distinct value parsed once; null where it stands for nothing, or is beyond int64."""
    distinct = raw.unique()
    parsed = [None if time is None or not -(1 << 63) <= time < 1 << 63 else time for time in map(parse, distinct.to_list())]
    return raw.replace_strict(distinct, pl.Series(parsed, dtype=pl.Int64), return_dtype=pl.Int64)


def unit_of_times(times: pl.Series) -> str | None:
    """The unit that a new catalog counts the times of `read_interactions` in; None if they are whole numbers of no known unit."""
    if times.dtype == _MOMENT:
        return "seconds"
    span = times.to_numpy()
    return unit_of(int(span.min()), int(span.max()))


def counted(times: pl.Series, unit: str | None, path: Path) -> pl.Series:
    """The times of `read_interactions` in a catalog's unit, int64. Raises InputError for dates where the unit is not known."""
    if times.dtype != _MOMENT:
        return times
    if unit is None:
        raise InputError(f"{path}: its times are dates, the catalog's are whole numbers of no known unit")
    return times.dt.epoch("us") * max(1, TICKS[unit] // 10**6) // max(1, 10**6 // TICKS[unit])


def _splits(raw: pl.Series, path: Path) -> pl.Series:
    try:
        named = raw.cast(pl.String).replace({"valid": "validation"})
    except pl.exceptions.PolarsError:
        raise InputError(f"{path}: column {raw.name!r} holds {raw.dtype}, expected names of splits") from None
    _refuse(~named.is_in(SPLITS).fill_null(False), raw, path, "train, validation (or valid) or test")
    return named


def read_entities(path: Path, id_column: str, option: str) -> pl.DataFrame:
    """One row per user or item: the id in the column `id`, every other column as text, missing values null; columns of vectors as
    lists of float32.

    Other lists are joined with ", ". Raises InputError, also for an id that stands twice.
    """
    frame = read_table(path)
    ids = _ids(frame, id_column, path, option)
    if len(double := ids.filter(ids.is_duplicated())):
        raise InputError(f"{path}: id {double[0]!r} stands {(ids == double[0]).sum()} times, expected once")
    cells = {
        name: frame[name].cast(pl.List(pl.Float32)) if holds_vectors(frame[name]) else _text(frame[name], path)
        for name in frame.columns
        if name != id_column
    }
    if "id" in cells:  # a column of that name beside the id column would hide it
        raise InputError(f"{path}: column 'id' is not the id column {id_column!r}: rename it")
    return pl.DataFrame({"id": ids, **cells})


def holds_vectors(column: pl.Series) -> bool:
    """Whether a column holds a list of floats for each row."""
    return isinstance(column.dtype, pl.List | pl.Array) and column.dtype.inner.is_float()


def column_of(entities: pl.DataFrame, name: str, what: str, vectors: bool = False) -> pl.Series:
    """A column of the users' or items' file that prompts name, as `what` says: of texts or of vectors. Raises InputError."""
    if name not in entities.columns:
        listed = ", ".join(column for column in entities.columns if column != "id")
        raise InputError(f"the {what}s file has no column {name!r}, which prompts name; it has: {listed}")
    if holds_vectors(entities[name]) != vectors:
        seen, expected = ("texts", "vectors") if vectors else ("vectors", "texts")
        raise InputError(f"the {what}s file: column {name!r} holds {seen}, prompts place {expected} of that name")
    return entities[name]


def _text(values: pl.Series, path: Path) -> pl.Series:
    if values.dtype == pl.List:
        values = values.cast(pl.List(pl.String)).list.join(", ")
    try:
        values = values.cast(pl.String).str.strip_chars()
    except pl.exceptions.PolarsError as exc:
        raise InputError(f"{path}: column {values.name!r} holds {values.dtype}, which has no text form") from exc
    return pl.select(pl.when(values != "").then(values).alias(values.name)).to_series()


def unify_ids(columns: Sequence[pl.Series]) -> list[pl.Series]:
    """The same ids in several columns (of several files) as one type: int64 when all are plain integers, else strings."""
    if all(_are_integers(column) for column in columns):
        return [column.cast(pl.Int64) for column in columns]
    return [column.cast(pl.String) for column in columns]


def _are_integers(column: pl.Series) -> bool:
    if column.dtype.is_integer():
        return bool(column.cast(pl.Int64, strict=False).is_not_null().all())
    # "007" and "+7" are not the integer 7: two ids must never become one.
    return bool((column.cast(pl.Int64, strict=False).cast(pl.String) == column).fill_null(False).all())


def rows_of(values: pl.Series, ids: pl.Series, what: str, path: Path, entities: Path) -> pl.Series:
    """The row of each value in `ids` (ascending, unique). Raises InputError naming the first value that is not there."""
    table = pl.DataFrame({"id": ids, "row": pl.int_range(len(ids), eager=True)})
    rows = pl.DataFrame({"id": values}).join(table, on="id", how="left", maintain_order="left")["row"]
    if rows.null_count():
        missing = values.filter(rows.is_null())
        count = f"{missing.n_unique()} such {what}s in {len(missing)} interactions"
        raise InputError(f"{path}: {what} {missing[0]!r} is not in {entities} ({count})")
    return rows
