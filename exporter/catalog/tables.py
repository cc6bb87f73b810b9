"""The catalog's tables as arrays: `users.safetensors`, `items.safetensors`, `pieces.safetensors` of docs/format.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

Tensors = dict[str, NDArray[Any]]


def id_tensors(ids: pl.Series) -> Tensors:
    """Ascending ids as `ids` int64 [n], or `id_bytes` uint8 and `id_offsets` int64 [n+1]."""
    if ids.dtype == pl.Int64:
        return {"ids": ids.to_numpy().astype(np.int64)}
    raw = [str(id).encode() for id in ids]
    return {"id_bytes": np.frombuffer(b"".join(raw), np.uint8), "id_offsets": offsets(np.array([len(r) for r in raw]))}


def offsets(counts: NDArray[Any]) -> NDArray[np.int64]:
    """CSR offsets [n+1] of n slices."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def histories(interactions: pl.DataFrame, users: int) -> Tensors:
    """The `history_*` tensors. `interactions` has `user`, `item` (rows), `time`, `liked`, sorted by (user, time, item)."""
    user, item = interactions["user"].to_numpy(), interactions["item"].to_numpy()
    starts = offsets(np.bincount(user, minlength=users))
    by_item = np.lexsort((item, user))  # stable: time stays the last key
    return {
        "history_offsets": starts,
        "history_items": item.astype(np.int32),
        "history_times": interactions["time"].to_numpy().astype(np.int64),
        "history_liked": interactions["liked"].to_numpy().astype(np.uint8),
        "history_by_item": (by_item - starts[user[by_item]]).astype(np.int32),
    }


def ratings(interactions: pl.DataFrame, items: int) -> Tensors:
    """The `rating_*` tensors: per item the times of its interactions, and the likes so far."""
    ordered = interactions.sort("item", "time", "user", maintain_order=True)
    return {
        "rating_offsets": offsets(np.bincount(ordered["item"].to_numpy(), minlength=items)),
        "rating_times": ordered["time"].to_numpy().astype(np.int64),
        "rating_likes": ordered.select(pl.col("liked").cast(pl.Int32).cum_sum().over("item"))["liked"]
        .to_numpy()
        .astype(np.int32),
    }


def field_tensors(fields: Mapping[str, NDArray[np.int32]], table: str) -> Tensors:
    """`field.NAME` of one table, from pieces keyed `user.NAME` and `item.NAME`."""
    return {f"field.{name.partition('.')[2]}": pieces for name, pieces in fields.items() if name.startswith(f"{table}.")}
