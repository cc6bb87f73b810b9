"""Scored pairs on their way to a file: `OUT.partial` while it grows, `OUT` when it is complete.

Until then an older OUT stays unchanged; after Ctrl-C or a failure the rows scored so far are in OUT.partial. A CSV file grows
with every slate; a Parquet file cannot, and is written when scoring ends, successfully or not.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rexit.cli._output import stderr
from rexit.cli._pairs import Pairs
from rexit.errors import InputError

if TYPE_CHECKING:
    import polars as pl

Added = Mapping[str, str]
"""The columns that scoring adds, with the names of their polars types."""

Scored = tuple[int, Sequence[Any]]
"""A row number in the file of pairs, and the values added to that row."""


class ScoredFile:
    """Takes slates as they are scored. `in_order`: rows are written in the order of the pairs, whatever order they arrive
    in; a row is held back until those before it are settled."""

    def __init__(self, out: Path, pairs: Pairs, added: Added, in_order: bool) -> None:
        self.partial = out.with_name(f"{out.name}.partial")
        self.rows = 0
        """Written so far."""
        self._out, self._in_order = out, in_order
        kind = _Parquet if out.suffix == ".parquet" else _Csv
        self._sink: _Csv | _Parquet = kind(self.partial, pairs, added)
        self._held: dict[int, Sequence[Any] | None] = {}
        self._next = 0

    def add(self, rows: Sequence[int], scored: Sequence[Scored]) -> None:
        """Settles a slate: its rows, and those of them that have an answer, with its values. Raises InputError."""
        if not self._in_order:
            self._write(scored)
            return
        self._held |= dict.fromkeys(rows)
        self._held |= dict(scored)
        ready = []
        while self._next in self._held:
            ready.append((self._next, self._held.pop(self._next)))
            self._next += 1
        self._write((row, values) for row, values in ready if values is not None)

    def _write(self, scored: Iterable[Scored]) -> None:
        rows = list(scored)
        self._sink.write(rows)
        self.rows += len(rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """Keeps what was scored: as OUT if nothing failed, else as OUT.partial, and says so."""
        try:
            self._write((row, values) for row, values in sorted(self._held.items()) if values is not None)
        finally:
            self._sink.close()
        if not self.rows:
            return
        if error is not None:
            stderr.print(
                f"rexit: {self.partial} keeps the {self.rows} rows scored so far", markup=False, highlight=False, soft_wrap=True
            )
            return
        try:
            os.replace(self.partial, self._out)
        except OSError as exc:
            raise InputError(f"{self._out}: cannot be written: {exc.strerror}; the rows are in {self.partial}") from exc


class _Csv:
    def __init__(self, path: Path, pairs: Pairs, added: Added) -> None:
        self._path, self._pairs, self._added = path, pairs, added
        self._file: io.FileIO | None = None
        self._end = 0

    def write(self, rows: Sequence[Scored]) -> None:
        """Whole rows or none."""
        if not rows:
            return
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if self._end == 0:
            writer.writerow([*self._pairs.header, *self._added])
        writer.writerows([*self._pairs.cells[row], *map(_text, values)] for row, values in rows)
        data = memoryview(text.getvalue().encode())
        end = self._end + len(data)
        try:
            if self._file is None:
                self._file = io.FileIO(self._path, "w")
            self._file.seek(self._end)  # overwrites what a failed write left
            while data:
                data = data[self._file.write(data) or 0 :]
        except OSError as exc:
            raise InputError(f"{self._path}: cannot be written: {exc.strerror}") from exc
        self._end = end

    def close(self) -> None:
        """Cuts off what a failure or an interrupt left after the last whole slate."""
        if self._file is None:
            return
        self._file.truncate(self._end)
        self._file.close()
        if self._end == 0:
            self._path.unlink()


class _Parquet:
    def __init__(self, path: Path, pairs: Pairs, added: Added) -> None:
        self._path, self._pairs, self._added = path, pairs, added
        self._rows: list[Scored] = []

    def write(self, rows: Sequence[Scored]) -> None:
        self._rows += rows

    def close(self) -> None:
        import polars as pl

        from rexit.bundle import write_file

        if not self._rows:
            return
        columns = [
            pl.Series(name, [values[n] for _, values in self._rows], getattr(pl, type))
            for n, (name, type) in enumerate(self._added.items())
        ]
        buffer = io.BytesIO()
        self._frame()[[row for row, _ in self._rows]].with_columns(columns).write_parquet(buffer)
        write_file(self._path, buffer.getvalue())

    def _frame(self) -> pl.DataFrame:
        """All pairs. From a CSV file, ids and times get the catalog's types; everything else is text."""
        import polars as pl

        pairs, columns = self._pairs, self._pairs.columns
        if pairs.frame is not None:
            return pairs.frame
        frame = pl.DataFrame(pairs.cells, dict.fromkeys(pairs.header, pl.String), orient="row")
        typed: dict[str, Sequence[Any]] = {columns.user: pairs.users, columns.item: pairs.items, columns.as_of: pairs.times}
        return frame.with_columns(pl.Series(name, values) for name, values in typed.items() if name in pairs.header)


def _text(value: Any) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)
