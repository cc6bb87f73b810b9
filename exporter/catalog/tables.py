"""The catalog's tables as arrays: `users.safetensors`, `items.safetensors`, `pieces.safetensors` of docs/format.md."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import save_file

from rexit.bundle.files import replaced
from rexit.exporter.catalog.chunks import by_range, offsets, ranges

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
