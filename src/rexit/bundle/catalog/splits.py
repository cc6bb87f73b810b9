"""Splits: parts of a catalog's interactions, in Parquet files that a bundle does not copy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rexit.bundle.catalog.ids import Ids
from rexit.bundle.inputs import COLUMN as INPUT
from rexit.bundle.inputs import Codes, Inputs

if TYPE_CHECKING:
    import polars as pl

SPLITS = ("train", "validation", "test")
"""For training, for choosing, for the final judgement. Every interaction is in one split."""


@dataclass(frozen=True)
class Split:
    """One part of the interactions, ordered by user row, time and item row.

    Attributes:
        users: Rows of the users, int64 [n].
        items: Rows of the items, int64 [n].
        times: In the catalog's unit, int64 [n].
        liked: bool [n].
        inputs: For each input of the prompt the place of its codes in `codes`, int32 [n, inputs].
        codes: The distinct codes (`rexit.bundle.inputs`), int32 each.
        scores: The first stage's, float32 [n]; None: exit zero does not read them.
    """

    users: NDArray[np.int64]
    items: NDArray[np.int64]
    times: NDArray[np.int64]
    liked: NDArray[np.bool_]
    inputs: NDArray[np.int32]
    codes: tuple[Codes, ...] = ()
    scores: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.users)

    def codes_of(self, row: int) -> tuple[Codes, ...]:
        """Returns the codes of an interaction's inputs."""
        return tuple(self.codes[place] for place in self.inputs[row])


def read_split(path: Path, users: Ids, items: Ids, inputs: Inputs) -> Split:
    """Reads a split's file. Raises InputError for an id that the catalog does not have."""
    import polars as pl

    frame = pl.read_parquet(path, glob=False)
    return Split(
        _rows(users, frame["user"], "user"),
        _rows(items, frame["item"], "item"),
        frame["time"].to_numpy().astype(np.int64),
        frame["liked"].to_numpy().astype(np.bool_),
        *_codes(frame, inputs),
        scores=frame["score"].to_numpy() if "score" in frame.columns else None,
    )


def _rows(ids: Ids, column: pl.Series, what: str) -> NDArray[np.int64]:
    """Returns the rows of a column of ids. Looks each distinct id up once."""
    import polars as pl

    unique = column.unique(maintain_order=True)
    return column.replace_strict(unique, ids.rows(unique.to_list(), what), return_dtype=pl.Int64).to_numpy()


def _codes(frame: pl.DataFrame, inputs: Inputs) -> tuple[NDArray[np.int32], tuple[Codes, ...]]:
    """Returns `inputs` and `codes` of a split."""
    import polars as pl

    columns = [frame[INPUT + name].fill_null("").rename("") for name in inputs.names]
    if not columns:
        return np.zeros((len(frame), 0), np.int32), ()
    distinct = pl.concat(columns).unique(maintain_order=True)
    places = pl.Series(range(len(distinct)), dtype=pl.Int32)
    rows = [column.replace_strict(distinct, places, return_dtype=pl.Int32).to_numpy() for column in columns]
    return np.column_stack(rows), tuple(np.array(text.split(), np.int32) for text in distinct)
