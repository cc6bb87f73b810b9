"""The output file: the rows of the pairs in their order, with their scores.

It is written inside OUT.partial, in one pass over the files of pairs and all partitions' scores, and renamed when it is complete.
With top_k a slate's rows are adjacent, best first, at the place of the slate's last row.
"""

from __future__ import annotations

import csv
import os
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rexit.batch.pairs import Batch, PairFiles
from rexit.batch.work import SCORE
from rexit.errors import InputError
from rexit.progress import Progress

if TYPE_CHECKING:
    import polars as pl

COLUMNS: Mapping[str, str] = {"probability": "Float32", "log_odds": "Float32", "exit": "Int32"}
"""Columns that scoring adds, with the names of their polars types."""


@dataclass(frozen=True)
class Output:
    """What is written, and where.

    Attributes:
        out: The output file.
        files: The files of pairs.
        kinds: The catalog's kinds of ids, of `user` and `item`.
        text_times: See `Plan`.
        in_order: Whether rows keep their order; else slates are ranked.
    """

    out: Path
    files: PairFiles
    kinds: Mapping[str, str]
    text_times: bool
    in_order: bool

    def write(self, folder: Path, scored: Sequence[Path], progress: Progress) -> int:
        """Writes OUT, unless it would have no rows.

        Args:
            folder: A folder on the same file system, for temporary files.
            scored: Files of `SCORE` records.
            progress: Reports rows.

        Returns:
            The number of rows.

        Raises:
            InputError: OUT cannot be written.
        """
        sink: _Sink = (_Parquet if self.out.suffix == ".parquet" else _Csv)(folder, self)
        parts = [np.memmap(path, SCORE, "r") for path in scored if path.stat().st_size]  # a whole file is in order of its rows
        pending, rows = np.empty(0, SCORE), 0
        pending_rows: Any = None
        for batch in self.files.batches():
            end = batch.first + len(batch)
            records = np.concatenate([np.empty(0, SCORE), *(_between(part, batch.first, end) for part in parts)])
            records = records[np.argsort(records["row"])]
            batch_rows = sink.take(batch, (records["row"] - batch.first).tolist())
            if self.in_order:
                sink.write(batch_rows, records)
                rows += len(records)
            else:
                pending = np.concatenate([pending, records])
                pending_rows = batch_rows if pending_rows is None else sink.join(pending_rows, batch_rows)
                order = np.lexsort((pending["rank"], pending["last"]))
                complete = order[pending["last"][order] < end]  # of slates without rows further on
                sink.write(sink.pick(pending_rows, complete.tolist()), pending[complete])
                rows += len(complete)
                rest = np.setdiff1d(np.arange(len(pending)), complete)
                pending, pending_rows = pending[rest], sink.pick(pending_rows, rest.tolist())
            progress("rows written", end, end)
        path = sink.close()
        if rows:
            os.replace(path, self.out)
        return rows


def _between(scores: NDArray[Any], begin: int, end: int) -> NDArray[Any]:
    """The records of some rows, of records in the order of their rows."""
    rows = scores["row"]
    return scores[bisect_left(rows, begin) : bisect_left(rows, end)]


class _Sink(Protocol):
    """A format of the output. Rows are opaque: only the sink looks into them."""

    def take(self, batch: Batch, rows: list[int]) -> Any: ...
    def join(self, some: Any, more: Any) -> Any: ...
    def pick(self, some: Any, rows: list[int]) -> Any: ...
    def write(self, some: Any, scores: NDArray[Any]) -> None: ...
    def close(self) -> Path: ...


class _Csv:
    def __init__(self, folder: Path, output: Output) -> None:
        self._path = folder / "out.csv"
        self._file: IO[str] = open(self._path, "w", newline="", encoding="utf-8")  # noqa: SIM115 (close() closes it)
        self._writer = csv.writer(self._file, lineterminator="\n")
        self._writer.writerow([*output.files.header, *COLUMNS])

    def take(self, batch: Batch, rows: list[int]) -> list[Sequence[Any]]:
        return batch.rows(rows)

    def join(self, some: list[Sequence[Any]], more: list[Sequence[Any]]) -> list[Sequence[Any]]:
        return some + more

    def pick(self, some: list[Sequence[Any]], rows: list[int]) -> list[Sequence[Any]]:
        return [some[n] for n in rows]

    def write(self, some: list[Sequence[Any]], scores: NDArray[Any]) -> None:
        columns = [map(str, scores[name]) for name in COLUMNS]
        self._writer.writerows([*cells, *values] for cells, *values in zip(some, *columns, strict=True))

    def close(self) -> Path:
        self._file.close()
        return self._path


class _Parquet:
    """A file per batch; polars streams them into one at the end."""

    def __init__(self, folder: Path, output: Output) -> None:
        self._folder, self._output, self._count = folder, output, 0
        self._types = output.files.common_types()
        for leftover in folder.glob("rows-*"):  # of a killed run
            leftover.unlink()

    def take(self, batch: Batch, rows: list[int]) -> pl.DataFrame:
        """Columns of Parquet get a type that fits all files; ids and times from CSV the catalog's, other columns are text."""
        import polars as pl

        if batch.frame is not None:
            return batch.frame[rows].cast(pl.Schema(self._types))
        frame = pl.DataFrame(batch.rows(rows), dict.fromkeys(batch.header, pl.String), orient="row")
        columns, time, kinds = self._output.files.columns, self._output.files.time, self._output.kinds
        numbers = [name for name, kind in ((columns.user, kinds["user"]), (columns.item, kinds["item"])) if kind == "int64"]
        if time is not None and not self._output.text_times:
            numbers.append(time)
        return frame.with_columns(pl.col(numbers).cast(pl.Int64))

    def join(self, some: pl.DataFrame, more: pl.DataFrame) -> pl.DataFrame:
        return some.vstack(more)

    def pick(self, some: pl.DataFrame, rows: list[int]) -> pl.DataFrame:
        return some[rows]

    def write(self, some: pl.DataFrame, scores: NDArray[Any]) -> None:
        import polars as pl

        if not len(scores):
            return
        columns = [pl.Series(name, np.ascontiguousarray(scores[name]), getattr(pl, dtype)) for name, dtype in COLUMNS.items()]
        some.with_columns(columns).write_parquet(self._folder / f"rows-{self._count:06d}.parquet")
        self._count += 1

    def close(self) -> Path:
        import polars as pl

        path = self._folder / "out.parquet"
        if self._count:
            parts = [self._folder / f"rows-{n:06d}.parquet" for n in range(self._count)]
            try:
                pl.scan_parquet(parts, glob=False).sink_parquet(path, maintain_order=True)
            except pl.exceptions.PolarsError as exc:
                raise InputError(f"{path}: cannot be written: {str(exc).splitlines()[0]}") from exc
        return path
