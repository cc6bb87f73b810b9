"""Columns of vectors: what an encoder outside made of each item, as `encoded.safetensors` of docs/format.md holds it.

Rules
1. All vectors of a column have the same number of finite numbers. Which encoder made them is nobody's business here.
2. Each is scaled to unit length before it is rounded to float16, as projectors take it.
3. An item without one (null, an empty list, an empty cell) has zeros: nothing is known about it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from rexit.bundle.catalog import Catalog
from rexit.bundle.files import FileEntry
from rexit.bundle.vectors import WIDEST
from rexit.errors import InputError
from rexit.exporter.catalog import tables
from rexit.exporter.catalog.interactions import column_of

FILE = "encoded.safetensors"

Encoded = Mapping[str, NDArray[np.float16]]
"""By column, [I, D]."""


def rows(column: pl.Series, ids: pl.Series, dim: int | None = None) -> NDArray[np.float16]:
    """A column of vectors as float16 [n, D]. ids: of its items; dim: D of the catalog, where there is one already.

    Raises InputError, naming the column and the first item at fault.
    """
    where, widths = f"the items file: column {column.name!r}", column.list.len().fill_null(0)
    there = widths > 0
    known = ids.filter(there)
    if dim is None and known.is_empty():
        raise InputError(f"{where}: no item has a vector, expected at least one")
    expected = widths.filter(there)[0] if dim is None else dim
    if expected > WIDEST:
        raise InputError(f"{where}: item {known[0]!r} has {expected} numbers, expected 1 to {WIDEST}")
    wrong = there & (widths != expected)
    if wrong.any():
        at, whose = int(wrong.to_numpy().argmax()), f"item {known[0]!r}" if dim is None else "each of the catalog's"
        raise InputError(f"{where}: item {ids[at]!r} has {widths[at]} numbers, {whose} has {expected}")
    # A number that is missing becomes NaN.
    numbers = column.filter(there).explode().cast(pl.Float32).to_numpy(writable=True).reshape(-1, expected)
    if not (finite := np.isfinite(numbers).all(1)).all():
        raise InputError(f"{where}: item {known[int(finite.argmin())]!r} has a number that is not finite")
    lengths = np.sqrt(np.einsum("ij,ij->i", numbers, numbers, dtype=np.float64))[:, None]
    numbers /= np.where(lengths > 0, lengths, 1)
    made = np.zeros((len(column), expected), np.float16)
    made[there.to_numpy()] = numbers
    return made


def updated(old: Catalog, items: pl.DataFrame | None, item_rows: NDArray[np.int64], at: NDArray[np.int64], count: int) -> Encoded:
    """The columns of `old` for `count` items, of which those at the rows `at` are its own. items: `id` and the columns, of new
    items and of known ones whose vectors are other ones now, at `item_rows`; None: there is no such file. Raises InputError,
    BundleError.
    """
    made = {}
    for name, before in old.encoded.items():
        made[name] = np.zeros((count, before.shape[1]), np.float16)
        made[name][at] = before
        if items is not None:
            made[name][item_rows] = rows(column_of(items, name, "item", vectors=True), items["id"], before.shape[1])
    return made


def write(folder: Path, made: Encoded) -> dict[str, Any]:
    """Writes the file, if prompts place any column. Returns what catalog.json says of it. Raises InputError."""
    if not made:
        return {}
    tables.write(folder / FILE, dict(made))
    return {"encoded": {"path": FILE, **FileEntry.of(folder / FILE).to_json()}}
