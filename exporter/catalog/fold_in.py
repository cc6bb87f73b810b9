"""Rows of the retriever for users and items that it has not learned: propagated from those it has, which stay as they are.

The projectors of a checkpoint, and every policy, were made for the space that the known rows span. So nothing here moves one.

1. A user without an embedding gets the one that a request of theirs would be folded into: the sum of the `fold_in` rows of the
   items they liked, at unit length.
2. An item without an embedding gets one hop of LightGCN's propagation: the sum of the embeddings of the users who liked it, each
   over the root of how many items that user liked, at unit length.
3. Its `fold_in` row points the same way. It is as long as those of known items are for their number of likes: the median of
   |fold_in| times the root of the degree, over the root of its own.
4. First the users by 1, then the items by 2 and 3, then the users that liked nothing but new items by 1 again.

Only likes of the train split count, as for all rows. Who liked nothing there, or items that nobody liked, stay zero: nothing is
known about them. `benchmarks/scale/refresh.py` compares this with learning everything again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rexit.exporter.catalog.neighbours import nonzero_rows

Half = NDArray[np.float16]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Space:
    """`embeddings` of users [U, D] and of items [I, D], `fold_in` [I, D], as docs/format.md has them; a zero row is unknown."""

    users: Half
    items: Half
    fold_in: Half


def placed(space: Space, user: Rows, item: Rows) -> Space:
    """The same with the unknown rows filled as far as likes (user[n], item[n]) tell. Known rows are what they were."""
    degrees = np.bincount(user, minlength=len(space.users)), np.bincount(item, minlength=len(space.items))
    users = _placed_users(space.users, space.fold_in, user, item)
    made = ~nonzero_rows(space.items)
    weight = 1 / np.sqrt(np.maximum(degrees[0], 1))
    directions = _unit(_sums(users.astype(np.float64) * weight[:, None], user, item, made))
    items, fold_in = space.items.copy(), space.fold_in.copy()
    items[made] = directions
    lengths = np.minimum(_length(space, degrees[1]) / np.sqrt(np.maximum(degrees[1][made], 1)), 0.999)
    fold_in[made] = directions * lengths[:, None]
    return Space(_placed_users(users, fold_in, user, item), items, fold_in)


def _placed_users(users: Half, fold_in: Half, user: Rows, item: Rows) -> Half:
    made = ~nonzero_rows(users)
    filled = users.copy()
    filled[made] = _unit(_sums(fold_in.astype(np.float64), item, user, made))
    return filled


def _sums(rows: NDArray[np.float64], source: Rows, target: Rows, wanted: NDArray[np.bool_]) -> NDArray[np.float64]:
    """For each wanted target the sum of the rows of its sources, in the order of targets."""
    here = wanted[target]
    place = np.cumsum(wanted) - 1
    sums = np.zeros((int(wanted.sum()), rows.shape[1]))
    np.add.at(sums, place[target[here]], rows[source[here]])
    return sums


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0))


def _length(space: Space, degree: NDArray[np.int64]) -> float:
    """Of a known item's `fold_in` row, times the root of its degree."""
    known = nonzero_rows(space.fold_in) & (degree > 0)
    if not known.any():
        return 0.5
    return float(np.median(np.linalg.norm(space.fold_in[known].astype(np.float64), axis=1) * np.sqrt(degree[known])))
