"""The output file: the rows of the pairs in their order, with the scores beside them.

It is written inside OUT.partial, in one pass over the files of pairs and all partitions' scores, and renamed when it is complete.
With top_k the rows of a slate stand together, best first, where the slate's last row stood.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
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
"""What scoring adds, with the names of the polars types."""
CUT_SHORT: Mapping[str, str] = {"cut_short": "Boolean"}
"""What it adds where there is a deadline."""
BUFFERED = 1024
"""Records read at once, of each partition."""


@dataclass(frozen=True)
class Output:
    """kinds: the catalog's kinds of ids, of `user` and `item`. text_times: see `Plan`."""

    out: Path
    files: PairFiles
    added: Mapping[str, str]
    kinds: Mapping[str, str]
    text_times: bool
    in_order: bool

    def write(self, folder: Path, scored: Sequence[Path], progress: Progress) -> int:
        """Writes OUT by way of `folder`, and says how many rows it has; without any, there is no OUT. scored: files of `SCORE`
        records. Raises InputError if it cannot be written."""
        sink: _Sink = (_Parquet if self.out.suffix == ".parquet" else _Csv)(folder, self)
        streams = [_Stream(path) for path in scored]
        held, rows = np.empty(0, SCORE), 0
        kept: Any = None
        for batch in self.files.batches():
            end = batch.first + len(batch)
            records = np.concatenate([stream.before(end) for stream in streams])
            records = records[np.argsort(records["row"])]
            taken = sink.take(batch, (records["row"] - batch.first).tolist())
            if self.in_order:
                sink.write(taken, records)
                rows += len(records)
            else:
                held = np.concatenate([held, records])
                kept = taken if kept is None else sink.join(kept, taken)
                order = np.lexsort((held["rank"], held["last"]))
                ready = order[held["last"][order] < end]
                sink.write(sink.pick(kept, ready.tolist()), held[ready])
                rows += len(ready)
                rest = np.setdiff1d(np.arange(len(held)), ready)
                held, kept = held[rest], sink.pick(kept, rest.tolist())
            progress("rows written", end, end)
        whole = sink.close()
        if rows:
            os.replace(whole, self.out)
        return rows


class _Stream:
    """The scores of a partition, from its file, in the order of their rows."""

    def __init__(self, path: Path) -> None:
        self._path, self._read, self._records = path, 0, np.empty(0, SCORE)
        self._count = path.stat().st_size // SCORE.itemsize

    def before(self, end: int) -> NDArray[Any]:
        """The next ones, of rows before `end`."""
        parts = []
        while True:
            cut = int(np.searchsorted(self._records["row"], end))
            parts.append(self._records[:cut])
            self._records = self._records[cut:]
            if len(self._records) or self._read == self._count:
                return np.concatenate(parts)
            self._records = np.fromfile(self._path, SCORE, BUFFERED, offset=self._read * SCORE.itemsize)
            self._read += len(self._records)


class _Sink(Protocol):
    """What differs between formats. Rows are opaque: only the sink looks into them."""

    def take(self, batch: Batch, rows: list[int]) -> Any: ...
    def join(self, some: Any, more: Any) -> Any: ...
    def pick(self, some: Any, rows: list[int]) -> Any: ...
    def write(self, some: Any, scores: NDArray[Any]) -> None: ...
    def close(self) -> Path: ...


class _Csv:
    def __init__(self, folder: Path, output: Output) -> None:
        self._path, self._added = folder / "out.csv", tuple(output.added)
        self._file: IO[str] = open(self._path, "w", newline="", encoding="utf-8")  # noqa: SIM115 (close() closes it)
        self._writer = csv.writer(self._file, lineterminator="\n")
        self._writer.writerow([*output.files.header, *self._added])

    def take(self, batch: Batch, rows: list[int]) -> list[Sequence[Any]]:
        return batch.rows(rows)

    def join(self, some: list[Sequence[Any]], more: list[Sequence[Any]]) -> list[Sequence[Any]]:
        return some + more

    def pick(self, some: list[Sequence[Any]], rows: list[int]) -> list[Sequence[Any]]:
        return [some[n] for n in rows]

    def write(self, some: list[Sequence[Any]], scores: NDArray[Any]) -> None:
        self._writer.writerows([*cells, *values] for cells, values in zip(some, _texts(scores, self._added), strict=True))

    def close(self) -> Path:
        self._file.close()
        return self._path


class _Parquet:
    """A file per batch, put together at the end: polars streams them."""

    def __init__(self, folder: Path, output: Output) -> None:
        self._folder, self._output, self._count = folder, output, 0
        for left in folder.glob("rows-*"):
            left.unlink()

    def take(self, batch: Batch, rows: list[int]) -> pl.DataFrame:
        """From CSV, ids and times get the catalog's types; everything else is text."""
        import polars as pl

        if batch.frame is not None:
            return batch.frame[rows]
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
        answered = pl.Series(scores["exit"] >= 0)
        columns = []
        for name, type in self._output.added.items():
            series = pl.Series(name, np.ascontiguousarray(scores[name]), getattr(pl, type))
            columns.append(series if name in CUT_SHORT else pl.select(pl.when(answered).then(series).alias(name)).to_series())
        some.with_columns(columns).write_parquet(self._folder / f"rows-{self._count:06d}.parquet")
        self._count += 1

    def close(self) -> Path:
        import polars as pl

        whole = self._folder / "out.parquet"
        if self._count:
            parts = [self._folder / f"rows-{n:06d}.parquet" for n in range(self._count)]
            try:
                pl.scan_parquet(parts).sink_parquet(whole, maintain_order=True)
            except pl.exceptions.PolarsError as exc:
                raise InputError(f"{whole}: cannot be written: {str(exc).splitlines()[0]}") from exc
        return whole


def _texts(scores: NDArray[Any], added: Sequence[str]) -> Iterator[list[Any]]:
    """Of each row; without an answer in time only `cut_short` has a value."""
    columns = [scores[name] for name in added]
    for n, exit in enumerate(scores["exit"].tolist()):
        values = (column[n] for column in columns)
        yield [str(value).lower() if value.dtype == bool else "" if exit < 0 else str(value) for value in values]
