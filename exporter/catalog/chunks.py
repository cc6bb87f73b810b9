"""Large tables in parts, so that what is sorted or joined at once is small: the rows of some users, or of some items."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

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
