"""The catalog's folder: where it may be, its tables as arrays (`users.safetensors`, `items.safetensors`, `pieces.safetensors` of
docs/format.md), and how they are written: in parts by user or item, so that little is sorted or joined at once.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import save_file

from rexit.errors import InputError
from rexit.format.bundle.catalog import CANDIDATE, SCORE, SPLITS, TABLES, ZERO, Catalog
from rexit.format.bundle.files import FileEntry, check_writable, replaced, write_json
from rexit.format.bundle.inputs import COLUMN as INPUT
from rexit.progress import Progress, silent, tracked

ROWS = 1 << 22
"""Rows of a part. A single user or item may have more."""


def ranges(starts: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Ranges [begin, end) of slices, given their CSR offsets [n+1], that have about ROWS entries each."""
    if starts[-1] <= ROWS:
        return [(0, len(starts) - 1)]
    borders = np.flatnonzero(np.diff(starts[:-1] // ROWS)) + 1
    return list(itertools.pairwise([0, *borders.tolist(), len(starts) - 1]))


def blocks(count: int) -> Iterator[slice]:
    """Slices of at most ROWS rows that cover `count` rows."""
    for begin in range(0, count, ROWS):
        yield slice(begin, min(count, begin + ROWS))


def by_range(frame: pl.DataFrame, column: str) -> Iterator[pl.DataFrame]:
    """Yields the rows of a frame by ranges of a column of row numbers, ascending; within a range in the frame's order."""
    if len(frame) <= ROWS:
        yield frame
        return
    for begin, end in ranges(offsets(np.bincount(frame[column].to_numpy()))):
        yield frame.filter(pl.col(column).is_between(begin, end, closed="left"))


def slices(begins: NDArray[np.int64], ends: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The entries of slices [begin, end), one slice after the other: for each the number of its slice, and its place."""
    sizes = ends - begins
    owner = np.repeat(np.arange(len(sizes)), sizes)
    return owner, begins[owner] + np.arange(len(owner)) - (np.cumsum(sizes) - sizes)[owner]


def offsets(counts: NDArray[Any]) -> NDArray[np.int64]:
    """CSR offsets [n+1] of n slices."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


Tensors = dict[str, NDArray[Any]]


def write_tensors(path: Path, tensors: Tensors) -> None:
    """Writes a safetensors file without copying the tensors. Raises InputError."""
    _write(path, lambda temporary: save_file(tensors, temporary))


def write_frame(path: Path, frame: pl.DataFrame) -> None:
    """Writes a Parquet file. Raises InputError."""
    _write(path, frame.write_parquet)


def _write(path: Path, write: Callable[[Path], None]) -> None:
    with replaced(path) as temporary:
        try:
            write(temporary)
        except (SafetensorError, pl.exceptions.PolarsError) as exc:  # both are Rust: an OSError is in their text
            number = re.search(r"os error (\d+)", str(exc))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from exc


def id_tensors(ids: pl.Series) -> Tensors:
    """Ascending ids as `ids` int64 [n], or `id_bytes` uint8 and `id_offsets` int64 [n+1]."""
    if ids.dtype == pl.Int64:
        return {"ids": ids.to_numpy().astype(np.int64)}
    return {
        "id_bytes": np.frombuffer("".join(ids).encode(), np.uint8),
        "id_offsets": offsets(ids.str.len_bytes().to_numpy()),
    }


def histories(interactions: pl.DataFrame, users: int) -> Tensors:
    """The `history_*` tensors. `interactions` has `user`, `item` (rows), `time`, `liked`, sorted by (user, time, item)."""
    user, item = interactions["user"].to_numpy(), interactions["item"].to_numpy()
    starts = offsets(np.bincount(user, minlength=users))
    by_item = np.empty(len(user), np.int32)
    for begin, end in ranges(starts):
        part = slice(starts[begin], starts[end])
        order = np.lexsort((item[part], user[part]))  # stable: time stays the last key
        by_item[part] = order - (starts[user[part][order]] - starts[begin])
    return {
        "history_offsets": starts,
        "history_items": item.astype(np.int32, copy=False),
        "history_times": interactions["time"].to_numpy().astype(np.int64, copy=False),
        "history_liked": interactions["liked"].to_numpy().astype(np.uint8),
        "history_by_item": by_item,
    }


def ratings(interactions: pl.DataFrame, items: int) -> Tensors:
    """The `rating_*` tensors: the times of each item's interactions and the running count of likes."""
    starts = offsets(np.bincount(interactions["item"].to_numpy(), minlength=items))
    times, likes = np.empty(len(interactions), np.int64), np.empty(len(interactions), np.int32)
    end = 0
    for part in by_range(interactions.select("item", "time", "user", "liked"), "item"):
        ordered = part.sort("item", "time", "user", maintain_order=True)
        begin, end = end, end + len(ordered)
        times[begin:end] = ordered["time"].to_numpy()
        likes[begin:end] = ordered.select(pl.col("liked").cast(pl.Int32).cum_sum().over("item"))["liked"].to_numpy()
    return {"rating_offsets": starts, "rating_times": times, "rating_likes": likes}


def field_tensors(fields: Mapping[str, NDArray[np.int32]], table: str) -> Tensors:
    """`field.NAME` of one table, from pieces keyed `user.NAME` and `item.NAME`."""
    return {f"field.{name.partition('.')[2]}": pieces for name, pieces in fields.items() if name.startswith(f"{table}.")}


def check_place(out: Path) -> None:
    """Raises InputError if a catalog cannot be written to `out`. Only a catalog or an empty folder is replaced."""
    out = Path(os.path.abspath(out))
    if out.exists() and not (out / "catalog.json").is_file() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"{out}: exists and is no catalog: choose another --out or remove it")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise InputError(f"{out}: cannot be written: {exc.strerror}") from exc
    check_writable(out.parent)


def write_tables(folder: Path, info: dict[str, Any], content: Iterable[tuple[str, Tensors]]) -> Catalog:
    """Writes each file of TABLES, consumed one by one, and adds the number of pieces to `info`, catalog.json. Returns the catalog
    as it is before its splits and `seal`."""
    for name, tensors in content:
        write_tensors(folder / name, tensors)
    catalog = Catalog(folder, info, {})
    info["counts"]["pieces"] = len(catalog.piece_table["offsets"]) - 1
    return catalog


def write_splits(
    folder: Path, info: dict[str, Any], samples: pl.DataFrame, users: pl.Series, items: pl.Series, progress: Progress = silent
) -> None:
    """Writes the splits, and adds their sizes to `info`, catalog.json.

    Args:
        samples: `user`, `item` (rows), `time`, `liked`, `split`, inputs, scores, weights and `candidate`, in the splits'
            order.
        users, items: ids by row.
        progress: called with "splits", the splits written and their number.
    """
    (folder / "splits").mkdir()
    splits = {}
    for split in tracked(SPLITS, "splits", progress):
        part = samples.filter(pl.col("split") == split).select(
            "user", "item", "time", "liked", pl.col(f"^((weight|{CANDIDATE})$|{SCORE}|{INPUT}).*$")
        )
        part = part.with_columns(user=users.gather(part["user"]), item=items.gather(part["item"]))
        path = f"splits/{split}.parquet"
        write_frame(folder / path, part)
        splits[split] = {"path": path, "rows": len(part), **FileEntry.of(folder / path).to_json()}
    info["splits"] = splits


def seal(folder: Path, info: dict[str, Any]) -> None:
    """Writes catalog.json, the last file: `info` with the digests of tables and exit zero's graph."""
    names = (*TABLES, *([ZERO] if info["prompt"].get("numbers") else []))
    info["files"] = {name: FileEntry.of(folder / name).to_json() for name in names}
    write_json(folder / "catalog.json", info)
