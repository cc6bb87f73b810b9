"""The user's interactions: who met which item when, and liked it or not.

Rules
1. Ids are integers if every id of the kind, in all files, is written as a plain int64; else they are strings.
2. An interaction has a user, an item, a finite rating (unless feedback is implicit) and a time (unless the order is another).
3. Times are as `rexit.format.times` reads them: whole numbers in all rows, or ISO 8601 text, dates or datetimes, by the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from rexit.errors import InputError
from rexit.exporter.catalog.input_columns import InputRule
from rexit.exporter.catalog.source_tables import (
    Needs,
    check_columns,
    check_rows,
    column_names,
    column_option,
    id_values,
    read_table,
)
from rexit.exporter.options import IndexOptions
from rexit.format.bundle.catalog import SCORE, SPLITS
from rexit.format.bundle.inputs import COLUMN as INPUT
from rexit.format.times import EXPECTED, TICKS, microseconds, unit_of, whole_number

_MOMENT = pl.Datetime("us")
WEIGHT = "weight"


def interaction_columns(options: IndexOptions, inputs: Sequence[InputRule] = (), scores: Iterable[str] = ()) -> Needs:
    """The columns that the interactions file must have, each with the option that names it, or with its placeholder."""
    columns = options.columns
    needs = {columns.user: column_option("user"), columns.item: column_option("item")}
    if not options.implicit:
        needs[columns.rating] = f"{column_option('rating')}; --implicit if there are no ratings"
    if options.order == "time":
        needs[columns.time] = f"{column_option('time')}; --order if there are no times"
    if columns.split is not None:
        needs[columns.split] = column_option("split")
    if columns.weight is not None:
        needs[columns.weight] = column_option("weight")
    needs |= {SCORE + name: "zero.inputs of the template" for name in scores}
    for rule in inputs:
        if (column := rule.column_in(())) is not None:
            needs.setdefault(column, f"{{{INPUT}{rule.name}}} of the template")
    return needs


def read_interactions(
    path: Path,
    options: IndexOptions,
    complete: bool = True,
    inputs: Sequence[InputRule] = (),
    scores: Sequence[str] = (),
) -> pl.DataFrame:
    """Reads the interactions file.

    Args:
        path: CSV, TSV or Parquet.
        options: names of columns, what is a like, what orders interactions.
        complete: the file holds every interaction, so it must hold likes and others.
        inputs: the template's; the result has a column `input.NAME` of raw cells for each.
        scores: the first stages of which the result has a column `score.NAME`, Float32, NaN where the file has no value.

    Returns:
        In the file's order: `user` and `item` (ids as written), `liked` bool, `time` (int64, or Datetime in UTC where the file
        has dates) and, if a column names it, `split`, or `weight`, Float32.

    Raises:
        InputError: a column is missing, or the first row with a value that is not as expected.
    """
    columns, needs = options.columns, interaction_columns(options, inputs, scores)
    check_columns({path: needs})
    names = column_names(path) if inputs else ()
    cells = {rule.name: rule.column_in(names) for rule in inputs}
    frame = read_table(path, {*needs, *(column for column in cells.values() if column is not None)})
    values = {
        "user": id_values(frame[columns.user], path),
        "item": id_values(frame[columns.item], path),
        "liked": _likes(frame, path, options, complete),
        "time": _times(frame, path, options),
    }
    if columns.split is not None:
        values["split"] = _splits(frame[columns.split], path)
    for name in scores:
        raw = frame[SCORE + name]
        known = raw.is_not_null()
        numbers = pl.Series(np.full(len(raw), np.nan), dtype=pl.Float64)
        values[SCORE + name] = numbers.scatter(known.arg_true(), _numbers(raw.filter(known), path)).cast(pl.Float32)
    if columns.weight is not None:
        values[WEIGHT] = _weights(frame[columns.weight], path)
    missing = pl.Series([None], dtype=pl.String).new_from_index(0, len(frame))
    values |= {INPUT + name: missing if column is None else frame[column] for name, column in cells.items()}
    return pl.DataFrame(values)


def without_repeats(interactions: pl.DataFrame, path: Path, ids: Mapping[str, pl.Series] | None = None) -> pl.DataFrame:
    """Keeps the last row of each user, item and time.

    Args:
        interactions: the result of `read_interactions`, perhaps with rows in place of ids.
        path: the file, for messages.
        ids: of `user` and `item`, if `interactions` has rows.

    Raises:
        InputError: one interaction is in two splits.
    """
    key = ["user", "item", "time"]
    if "split" in interactions.columns:
        splits = interactions.group_by(key, maintain_order=True).agg(pl.col("split").unique().sort())
        if len(torn := splits.filter(pl.col("split").list.len() > 1)):
            user, item, time, names = torn.row(0)
            if ids is not None:
                user, item = ids["user"][user], ids["item"][item]
            raise InputError(
                f"{path}: user {user!r} and item {item!r} at time {time} are in {' and '.join(names)}, expected one split"
            )
    return interactions.unique(key, keep="last", maintain_order=True)


def _likes(frame: pl.DataFrame, path: Path, options: IndexOptions, complete: bool) -> pl.Series:
    if options.implicit:
        return pl.repeat(True, len(frame), eager=True)
    raw = frame[options.columns.rating]
    rating = _numbers(raw, path)
    liked = rating >= options.least_like
    if complete and ((liked.all() and options.slates.kind == "rated") or not liked.any()):
        problem = "every rating is a like" if liked.all() else "no rating is a like"
        low, high = np.min(rating.to_numpy()), np.max(rating.to_numpy())
        remedy = "or what else is in slates: --candidates retrieved:100 or popularity:9" if liked.all() else "for likes"
        raise InputError(
            f"{path}: {problem}: {raw.name!r} is {low:g} to {high:g}, a like is at least {options.least_like:g}: "
            f"choose another --positive-at, {remedy}"
        )
    return liked


def _numbers(raw: pl.Series, path: Path) -> pl.Series:
    """A column of finite numbers, or of texts that are numbers, Float64. Raises InputError."""
    if not (raw.dtype.is_numeric() or raw.dtype in (pl.Boolean, pl.String, pl.Categorical, pl.Enum)):
        raise InputError(f"{path}: column {raw.name!r} holds {raw.dtype}, expected numbers")
    text = raw.dtype in (pl.Categorical, pl.Enum)
    numbers = (raw.cast(pl.String) if text else raw).cast(pl.Float64, strict=False)
    check_rows(~numbers.is_finite().fill_null(False), raw, path, "a finite number")
    return numbers


def _weights(raw: pl.Series, path: Path) -> pl.Series:
    """A column of weights, Float32. Raises InputError for one that is negative, or if all are 0."""
    numbers = _numbers(raw, path).cast(pl.Float32)
    check_rows(~((numbers >= 0) & numbers.is_finite()), raw, path, "a weight of at least 0")
    if not (numbers > 0).any():
        raise InputError(f"{path}: every weight in column {raw.name!r} is 0, expected one above 0")
    return numbers


def _times(frame: pl.DataFrame, path: Path, options: IndexOptions) -> pl.Series:
    """Without a time column: places in the file, or in a random order."""
    if options.order == "file":
        return pl.int_range(len(frame), eager=True)
    if options.order == "random":
        return pl.Series(np.random.default_rng(options.seed).permutation(len(frame)))
    raw = frame[options.columns.time]
    if raw.dtype in (pl.Datetime, pl.Date):
        moments = raw.dt.epoch("us").cast(_MOMENT)
        check_rows(moments.is_null(), raw, path, EXPECTED)
        return moments
    if not (raw.dtype.is_numeric() or raw.dtype in (pl.String, pl.Categorical, pl.Enum)):
        raise InputError(f"{path}: column {raw.name!r} holds {raw.dtype}, expected whole numbers, dates or ISO 8601 text")
    if raw.dtype.is_integer():
        numbers = raw.cast(pl.Int64, strict=False)
    else:
        numbers = _parse_distinct(raw, whole_number)
        if numbers[0] is None and raw[0] is not None and microseconds(str(raw[0])) is not None:
            moments = _parse_distinct(raw, microseconds).cast(_MOMENT)
            check_rows(moments.is_null(), raw, path, f"{EXPECTED}, as row 1 has")
            return moments
    check_rows(numbers.is_null(), raw, path, f"a whole number, or in all rows {EXPECTED}")
    return numbers


def _parse_distinct(raw: pl.Series, parse: Callable[[object], int | None]) -> pl.Series:
    """Parses each distinct value once. Int64; null where `parse` returns None or a number beyond int64."""
    distinct = raw.unique()
    parsed = [None if time is None or not -(1 << 63) <= time < 1 << 63 else time for time in map(parse, distinct.to_list())]
    return raw.replace_strict(distinct, pl.Series(parsed, dtype=pl.Int64), return_dtype=pl.Int64)


def unit_of_times(times: pl.Series) -> str | None:
    """The unit in which a new catalog stores the times of `read_interactions`; None: whole numbers of unknown unit."""
    if times.dtype == _MOMENT:
        return "seconds"
    span = times.to_numpy()
    return unit_of(int(span.min()), int(span.max()))


def in_unit(times: pl.Series, unit: str | None, path: Path) -> pl.Series:
    """The times of `read_interactions` in a catalog's unit, int64. Raises InputError for dates if the unit is unknown."""
    if times.dtype != _MOMENT:
        return times
    if unit is None:
        raise InputError(f"{path}: its times are dates, the catalog's are whole numbers of no known unit")
    return times.dt.epoch("us") * max(1, TICKS[unit] // 10**6) // max(1, 10**6 // TICKS[unit])


def _splits(raw: pl.Series, path: Path) -> pl.Series:
    try:
        names = raw.cast(pl.String).replace({"valid": "validation"})
    except pl.exceptions.PolarsError:
        raise InputError(f"{path}: column {raw.name!r} holds {raw.dtype}, expected names of splits") from None
    check_rows(~names.is_in(SPLITS).fill_null(False), raw, path, "train, validation (or valid) or test")
    return names
