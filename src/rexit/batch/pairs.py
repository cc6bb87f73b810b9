"""Files of pairs to score, read in batches.

Users, items and times get the catalog's types; other columns stay as they are. CSV is read as text, so that an id is exactly what
the file says. Parquet needs polars, which the base install leaves out.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rexit.delimited import read_lines
from rexit.errors import InputError
from rexit.ids import parse_id

if TYPE_CHECKING:
    import polars as pl

    from rexit.ids import Id

PAIR_FORMATS = (".csv", ".tsv", ".parquet")
OUT_FORMATS = (".csv", ".parquet")
MAX_BATCH_ROWS = 1 << 16
"""Maximum number of rows of a batch."""


@dataclass(frozen=True)
class ColumnNames:
    """Names of the columns that scoring reads.

    Attributes:
        user: The column of users.
        item: The column of items.
        as_of: The column of times; None: `as_of`, if the files have it.
        score: The column of the first stage's scores; None: `score`, if they are read.
        inputs: The columns of inputs, by input name. Another input has the column of its own name, if the files have it.
    """

    user: str = "user_id"
    item: str = "item_id"
    as_of: str | None = None
    score: str | None = None
    inputs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Batch:
    """Consecutive rows of one file.

    Attributes:
        path: The file.
        first: Number of the first row over all files, from 0.
        before: Rows of the same file before the first row.
        header: Names of the columns.
        cells: The rows of a CSV file, as text; None for Parquet.
        frame: The rows of a Parquet file; None for CSV.
    """

    path: Path
    first: int
    before: int
    header: tuple[str, ...]
    cells: Sequence[Sequence[Any]] | None
    frame: pl.DataFrame | None

    def __len__(self) -> int:
        return len(self.cells) if self.frame is None and self.cells is not None else self._frame.height

    @property
    def _frame(self) -> pl.DataFrame:
        assert self.frame is not None
        return self.frame

    def column(self, name: str) -> list[Any]:
        """Returns a column's values."""
        if self.cells is None:
            return self._frame[name].to_list()
        at = self.header.index(name)
        return [row[at] for row in self.cells]

    def rows(self, numbers: Sequence[int]) -> list[Sequence[Any]]:
        """Returns rows by their places in the batch."""
        if self.cells is None:
            return list(self._frame[list(numbers)].rows())
        return [self.cells[n] for n in numbers]

    def read(self, name: str, parse: Callable[[Any], Any], empty: bool = False) -> list[Any]:
        """Returns a column's values, parsed; each distinct value is parsed once. empty: parse None for cells without a value,
        which are refused otherwise. Raises InputError that names the row."""
        values = [tuple(value) if isinstance(value, list) else value for value in self.column(name)]
        parsed: dict[Any, Any] = {}
        for value in dict.fromkeys(values):
            try:
                missing = value is None or value == ""
                if missing and not empty:
                    raise InputError(f"`{name}` is missing")
                parsed[value] = parse(None if missing else value)
            except InputError as exc:
                raise InputError(f"{self.path}: row {self.before + values.index(value) + 1}: {exc}") from exc
        return [parsed[value] for value in values]


@dataclass(frozen=True)
class PairFiles:
    """One file of pairs, or the files of a folder in the order of their names. All have one format and the same columns.

    Attributes:
        place: The file or folder.
        files: The files.
        header: Names of all columns.
        columns: Names of the columns that scoring reads.
        time: The column of times; None: there is none.
        inputs: The columns of inputs, by input name.
    """

    place: Path
    files: tuple[Path, ...]
    header: tuple[str, ...]
    columns: ColumnNames
    time: str | None
    inputs: Mapping[str, str]

    @classmethod
    def find(
        cls, place: Path, columns: ColumnNames, added: Sequence[str], inputs: Sequence[str] = (), scores: bool = False
    ) -> PairFiles:
        """Finds the files.

        Args:
            place: A file, or a folder.
            columns: Names of the columns.
            added: Columns that the files must not have.
            inputs: Names of the prompt's inputs.
            scores: Whether exit zero reads the first stage's scores.

        Raises:
            InputError: There is no such file, a column is missing, or the files differ.
        """
        columns = replace(columns, score=columns.score or "score") if scores else columns
        if place.is_dir():
            files = tuple(sorted(path for path in place.iterdir() if path.suffix in PAIR_FORMATS and path.is_file()))
            if len(kinds := sorted({path.suffix for path in files})) != 1:
                seen = f"{' and '.join(kinds)} files" if files else f"no {' or '.join(PAIR_FORMATS)} file"
                raise InputError(f"{place}: has {seen}, expected files of one kind")
        else:
            files = (place,)
        check_format(files[0], PAIR_FORMATS)
        if not files[0].is_file():
            raise InputError(f"{place}: no such file")
        header, time = _header(files[0]), columns.as_of or "as_of"
        _check_header(files[0], header, columns, added)
        input_columns = {name: column for name in inputs if (column := columns.inputs.get(name, name)) in header}
        for path in files:
            if path.suffix == ".parquet":
                _check_types(path, columns, time, input_columns.values())
            if (other := _header(path)) != header:
                raise InputError(f"{path}: has the columns {', '.join(other)}; {files[0].name} has {', '.join(header)}")
        return cls(place, files, header, columns, time if time in header else None, input_columns)

    def identity(self) -> list[list[Any]]:
        """Returns paths, sizes and times of the files: these change when a file is written anew."""
        return [[str(path), (stat := path.stat()).st_size, stat.st_mtime_ns] for path in self.files]

    def common_types(self) -> dict[str, pl.DataType]:
        """Returns the polars types of the columns of Parquet files, wide enough for every file's. Empty for CSV.

        Raises:
            InputError: No type holds a column of two files.
        """
        if self.files[0].suffix != ".parquet":
            return {}
        common = _types(self.files[0])
        for path in self.files[1:]:
            for name, dtype in _types(path).items():
                if (wider := _wider(common[name], dtype)) is None:
                    raise InputError(
                        f"{path}: column {name!r} holds {dtype}, in the files before it {common[name]}: expected types that one "
                        "column of the output can hold"
                    )
                common[name] = wider
        return common

    def batches(self, max_rows: int | None = None) -> Iterator[Batch]:
        """Yields all rows in order. max_rows: most rows of a batch, if that is below MAX_BATCH_ROWS. Raises InputError for an
        unreadable file, and for a row with too many or too few fields."""
        rows = min(MAX_BATCH_ROWS, max_rows or MAX_BATCH_ROWS)
        first = 0
        for path in self.files:
            before = 0
            parts = _parquet_rows(path, rows) if path.suffix == ".parquet" else _csv_rows(path, self.header, rows)
            for cells, frame in parts:
                batch = Batch(path, first + before, before, self.header, cells, frame)
                yield batch
                before += len(batch)
            first += before


def check_format(path: Path, formats: Sequence[str]) -> None:
    """Raises InputError for a file whose name ends in none of the formats, and for Parquet if polars is missing."""
    if path.suffix not in formats:
        raise InputError(f"{path}: the name ends in {path.suffix!r}, expected {' or '.join(formats)}")
    if path.suffix == ".parquet":
        try:
            import polars  # noqa: F401
        except ImportError as exc:
            raise InputError(f"{path}: Parquet needs polars, .csv does not: pip install 'rexit[calibrate]'") from exc


def user_or_item(kind: str, what: str) -> Callable[[Any], Id]:
    """Returns a parser of ids. kind: the catalog's, `int64` or `string`. what: `user` or `item`."""
    return lambda value: parse_id(str(value), kind, what)


def _header(path: Path) -> tuple[str, ...]:
    if path.suffix == ".parquet":
        import polars as pl

        try:
            return tuple(_types(path))
        except (pl.exceptions.PolarsError, OSError) as exc:
            raise _not_parquet(path, exc) from exc
    return tuple(next(read_lines(path))[1])


def _csv_rows(path: Path, header: Sequence[str], size: int) -> Iterator[tuple[list[list[str]], None]]:
    rows: list[list[str]] = []
    for n, row in enumerate(filter(None, (cells for _, cells in itertools.islice(read_lines(path), 1, None))), 1):
        if len(row) != len(header):
            raise InputError(f"{path}: row {n} has {len(row)} fields, the header has {len(header)}")
        rows.append(row)
        if len(rows) == size:
            yield rows, None
            rows = []
    if rows:
        yield rows, None


def _parquet_rows(path: Path, size: int) -> Iterator[tuple[None, pl.DataFrame]]:
    import polars as pl

    try:
        for frame in pl.scan_parquet(path, glob=False).collect_batches(chunk_size=size, maintain_order=True):
            if frame.height:
                yield None, frame
    except pl.exceptions.PolarsError as exc:
        raise _not_parquet(path, exc) from exc


def _check_types(path: Path, columns: ColumnNames, time: str, inputs: Iterable[str]) -> None:
    """Raises InputError for ids and times of a type that `rexit index` does not take either, and for columns of inputs that hold
    neither values nor lists of token ids."""
    import polars as pl

    schema = _types(path)
    text = (pl.String, pl.Categorical, pl.Enum)
    for name in (columns.user, columns.item):
        dtype = schema.get(name)
        if dtype is not None and not (dtype.is_integer() or dtype in text):
            raise InputError(f"{path}: column {name!r} holds {dtype}, expected integers or strings")
    dtype = schema.get(time)
    if dtype is not None and not (dtype.is_numeric() or dtype in (*text, pl.Date, pl.Datetime)):
        raise InputError(f"{path}: column {time!r} holds {dtype}, expected whole numbers, dates or ISO 8601 text")
    for name in inputs:
        dtype = schema.get(name)
        value = dtype.inner if isinstance(dtype, pl.List | pl.Array) else dtype
        if value is not None and (value.is_nested() or value == pl.Binary):
            raise InputError(f"{path}: column {name!r} holds {dtype}, expected numbers, texts or lists of token ids")


def _types(path: Path) -> dict[str, pl.DataType]:
    """The types of a Parquet file's columns."""
    import polars as pl

    return dict(pl.scan_parquet(path, glob=False).collect_schema())


def _wider(first: pl.DataType, second: pl.DataType) -> pl.DataType | None:
    """Returns the type that holds the values of both; None if there is none."""
    import polars as pl

    both, text = (first, second), (pl.String, pl.Categorical, pl.Enum)
    if first == second:
        return first
    if any(dtype in text for dtype in both):
        return pl.String() if all(dtype in text or dtype.is_integer() or dtype == pl.Null for dtype in both) else None
    if first.is_numeric() != second.is_numeric() and pl.Null not in both:
        return None  # as a number, a time would be another one
    try:
        frames = [pl.DataFrame(schema={"": dtype}) for dtype in both]
        return pl.concat(frames, how="vertical_relaxed").schema[""]
    except pl.exceptions.PolarsError:
        return None


def _not_parquet(path: Path, exc: Exception) -> InputError:
    return InputError(f"{path}: cannot be read as Parquet: {str(exc).splitlines()[0]}")


def _check_header(path: Path, header: Sequence[str], columns: ColumnNames, added: Sequence[str]) -> None:
    named = {"user": columns.user, "item": columns.item, "as_of": columns.as_of, "score": columns.score}
    named |= {f"input.{name}": column for name, column in columns.inputs.items()}
    missing = [f"{name!r} (--column {role}=NAME)" for role, name in named.items() if name is not None and name not in header]
    if missing:
        raise InputError(f"{path}: no column{'s' * (len(missing) > 1)} {' and '.join(missing)}, it has: {', '.join(header)}")
    for name in header:
        if header.count(name) > 1:
            raise InputError(f"{path}: column {name!r} appears {header.count(name)} times in the header, expected unique names")
        if name in added:
            raise InputError(f"{path}: already has a column {name!r}, which this command adds")
