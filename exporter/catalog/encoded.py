"""Columns of vectors: an outside encoder's vector of each item, stored as `encoded.safetensors` (docs/format.md).

Rules
1. All vectors of a column have the same number of finite numbers. The encoder does not matter here.
2. Vectors are scaled to unit length, then rounded to float16, as projectors take them.
3. An item without a vector (null, an empty list, an empty cell) has zeros.
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
from rexit.bundle.vectors import MAX_WIDTH
from rexit.errors import InputError
from rexit.exporter.catalog.tables import write_tensors
from rexit.exporter.catalog.entities import column_of

ENCODED = "encoded.safetensors"

Encoded = Mapping[str, NDArray[np.float16]]
"""Vectors [I, D] by column."""


def vector_rows(column: pl.Series, ids: pl.Series, dim: int | None = None) -> NDArray[np.float16]:
    """A column of vectors, at unit length.

    Args:
        column: lists of float32, one per item.
        ids: the items' ids, for messages.
        dim: the width that the catalog has; None: that of the first vector.

    Returns:
        float16 [n, D].

    Raises:
        InputError: names the column and the first item at fault.
    """
    where, widths = f"the items file: column {column.name!r}", column.list.len().fill_null(0)
    present = widths > 0
    ids_present = ids.filter(present)
    if dim is None and ids_present.is_empty():
        raise InputError(f"{where}: no item has a vector, expected at least one")
    expected = widths.filter(present)[0] if dim is None else dim
    if expected > MAX_WIDTH:
        raise InputError(f"{where}: item {ids_present[0]!r} has {expected} numbers, expected 1 to {MAX_WIDTH}")
    wrong = present & (widths != expected)
    if wrong.any():
        row, owner = int(wrong.to_numpy().argmax()), f"item {ids_present[0]!r}" if dim is None else "each of the catalog's"
        raise InputError(f"{where}: item {ids[row]!r} has {widths[row]} numbers, {owner} has {expected}")
    # A missing number becomes NaN.
    numbers = column.filter(present).explode().cast(pl.Float32).to_numpy(writable=True).reshape(-1, expected)
    if not (finite := np.isfinite(numbers).all(1)).all():
        raise InputError(f"{where}: item {ids_present[int(finite.argmin())]!r} has a number that is not finite")
    lengths = np.sqrt(np.einsum("ij,ij->i", numbers, numbers, dtype=np.float64))[:, None]
    numbers /= np.where(lengths > 0, lengths, 1)
    vectors = np.zeros((len(column), expected), np.float16)
    vectors[present.to_numpy()] = numbers
    return vectors


def extended_vectors(
    old: Catalog, items: pl.DataFrame | None, item_rows: NDArray[np.int64], old_rows: NDArray[np.int64], count: int
) -> Encoded:
    """The columns of vectors of an updated catalog.

    Args:
        old: the catalog before.
        items: `id` and columns of new items and of items whose vectors changed; None: no such file.
        item_rows: int64 [n], the new catalog's row of each of `items`.
        old_rows: int64 [I], the new catalog's row of each item of `old`.
        count: items of the new catalog.

    Raises:
        InputError, BundleError: as `vector_rows`; a column is missing; `old` cannot be read.
    """
    encoded = {}
    for name, before in old.encoded.items():
        encoded[name] = np.zeros((count, before.shape[1]), np.float16)
        encoded[name][old_rows] = before
        if items is not None:
            encoded[name][item_rows] = vector_rows(column_of(items, name, "item", vectors=True), items["id"], before.shape[1])
    return encoded


def write_vectors(folder: Path, vectors: Encoded) -> dict[str, Any]:
    """Writes the file if there are columns of vectors. Returns its entry for catalog.json. Raises InputError."""
    if not vectors:
        return {}
    write_tensors(folder / ENCODED, dict(vectors))
    return {"encoded": {"path": ENCODED, **FileEntry.of(folder / ENCODED).to_json()}}
