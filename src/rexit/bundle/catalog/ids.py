"""Ids of a catalog's users or items, and their rows."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError

from rexit.errors import BundleError, InputError
from rexit.ids import Id, to_id

FEW = 1000
"""A copy of all ids pays off if more than one id in this many is looked up."""


class Column(Protocol):
    """One dimension of a tensor, in memory or in a file. Only the requested rows are read."""

    def __getitem__(self, rows: slice, /) -> NDArray[Any]: ...


@dataclass(frozen=True)
class Ids:
    """The ids of a catalog's users or items by row, ascending.

    A few ids are looked up in the file itself, with some twenty reads per id. Many are looked up in a copy of all ids.

    Attributes:
        kind: `int64` or `string`.
        count: Number of ids.
        numbers: int64 [n], of integer ids.
        text: UTF-8 of string ids, ordered bytewise, uint8 [bytes].
        starts: Where each string id begins in `text`, int64 [n + 1].
        where: The file, for messages.
    """

    kind: str
    count: int
    numbers: Column | None = None
    text: Column | None = None
    starts: Column | None = None
    where: str = "ids"

    def __len__(self) -> int:
        return self.count

    def row(self, identifier: Id) -> int | None:
        """Returns the row of an id; None if the catalog does not have it."""
        if (key := self._key(identifier)) is None:
            return None
        at = bisect.bisect_left(range(self.count), key, key=self._at)
        return at if at < self.count and self._at(at) == key else None

    def find(self, ids: Sequence[Id]) -> NDArray[np.int64]:
        """Returns the rows of many ids, int64 [n]; -1 for an id that the catalog does not have."""
        if self.count == 0 or len(ids) * FEW <= self.count:
            return np.array([-1 if (row := self.row(identifier)) is None else row for identifier in ids], np.int64)
        keys = [self._key(identifier) for identifier in ids]
        known = np.array([key is not None for key in keys], np.bool_)
        targets = np.empty(len(keys), self._all.dtype)
        targets[:] = [self._all[0] if key is None else key for key in keys]
        at = np.minimum(np.searchsorted(self._all, targets), self.count - 1)
        return np.where(known & (self._all[at] == targets), at, -1)

    def rows(self, ids: Sequence[Id], what: str = "item") -> NDArray[np.int64]:
        """Returns the rows of many ids, int64 [n]. Raises InputError for the first unknown id. what: `user` or `item`, for the
        message."""
        rows = self.find(ids)
        if (rows < 0).any():
            raise InputError(f"{what} {ids[int((rows < 0).argmax())]!r} is not in the catalog")
        return rows

    def id(self, row: int) -> Id:
        """Returns the id of a row."""
        return self._plain([self._at(row)])[0]

    def take(self, rows: NDArray[np.int64]) -> list[Id]:
        """Returns the ids of many rows. rows: int64 [n]."""
        return self._plain(self._all[rows].tolist())

    def _plain(self, values: list[Any]) -> list[Id]:
        try:
            return [value.decode() for value in values] if self.kind == "string" else values
        except UnicodeDecodeError as exc:
            raise BundleError(f"{self.where}: holds an id that is not UTF-8") from exc

    def _at(self, row: int) -> int | bytes:
        if "_all" in vars(self):  # several times cheaper than reading the file
            value = self._all[row]
            return value if isinstance(value, bytes) else int(value)
        if self.numbers is not None:
            return int(self.numbers[row : row + 1][0])
        (value,) = self._texts(row, row + 1)
        return value

    @cached_property
    def _all(self) -> NDArray[Any]:
        if self.numbers is not None:
            return self.numbers[0 : self.count]
        values = np.empty(self.count, object)
        values[:] = self._texts(0, self.count)
        return values

    def _texts(self, begin: int, end: int) -> list[bytes]:
        """Returns the UTF-8 of rows [begin, end). Raises BundleError if the offsets are damaged."""
        assert self.text is not None and self.starts is not None
        starts = self.starts[begin : end + 1].tolist()
        if starts[0] < 0 or any(a > b for a, b in itertools.pairwise(starts)):
            raise BundleError(f"{self.where}: the offsets of the ids of rows {begin} to {end} are not ascending")
        try:
            raw = self.text[starts[0] : starts[-1]].tobytes()
        except SafetensorError as exc:
            raise BundleError(f"{self.where}: the offsets of the ids of rows {begin} to {end} point beyond their text") from exc
        return [raw[a - starts[0] : b - starts[0]] for a, b in itertools.pairwise(starts)]

    def _key(self, identifier: Id) -> int | bytes | None:
        """Returns the key to compare by; None for an id that this kind of catalog cannot have."""
        value = to_id(identifier, self.kind)
        return value.encode() if isinstance(value, str) else value
