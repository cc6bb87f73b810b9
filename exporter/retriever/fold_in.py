"""Embeddings for users and items that the retriever has not learned: propagated from the learned rows, which do not change.

Every policy depends on the space of the learned rows, so none of these may move.

1. A user without an embedding gets the one that a request would be folded into: the sum of the `fold_in` rows of the items they
   liked, at unit length.
2. An item without an embedding gets one hop of LightGCN's propagation: the sum of the embeddings of the users who liked it, each
   over the root of that user's number of likes, at unit length.
3. An item's `fold_in` row has the same direction. Its length is the median of |fold_in| times the root of the degree over known
   items, divided by the root of its own degree.
4. Order: users by 1, items by 2 and 3, then by 1 again the users who liked new items only.
5. An item that nobody has liked gets, if items have vectors of their text or picture, the mean of the embeddings of the NEAREST
   items that have one, by the product of those vectors (our choice), at unit length. Its `fold_in` row stays zero: it tells
   nothing of a user who likes it, and the row says that it is to be placed by likes once there are any.

Only likes of the train split count. Users without one stay zero, items too if they have no vector. docs/notes/index.md compares
this with training again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rexit.exporter.retriever.neighbours import nonzero_rows

Half = NDArray[np.float16]
Rows = NDArray[np.int64] | NDArray[np.int32]

NEAREST = 30
"""Items that place one that nobody has liked."""


@dataclass(frozen=True)
class Space:
    """Embeddings of users [U, D] and items [I, D], and `fold_in` [I, D], as docs/format.md has them; a zero row is unknown."""

    users: Half
    items: Half
    fold_in: Half


def placed(space: Space, user: Rows, item: Rows) -> Space:
    """Fills unknown rows.

    Args:
        space: the learned rows.
        user, item: int64 [n], rows of the training likes.

    Returns:
        The space with every row filled that likes reach; known rows unchanged, but for those of items placed by their vectors.
    """
    degrees = np.bincount(user, minlength=len(space.users)), np.bincount(item, minlength=len(space.items))
    users = _placed_users(space.users, space.fold_in, user, item)
    unknown = ~nonzero_rows(space.fold_in) & ((degrees[1] > 0) | ~nonzero_rows(space.items))
    weight = 1 / np.sqrt(np.maximum(degrees[0], 1))
    directions = _unit(_sums(users.astype(np.float64) * weight[:, None], user, item, unknown))
    items, fold_in = space.items.copy(), space.fold_in.copy()
    items[unknown] = directions
    lengths = np.minimum(_length(space, degrees[1]) / np.sqrt(np.maximum(degrees[1][unknown], 1)), 0.999)
    fold_in[unknown] = directions * lengths[:, None]
    return Space(_placed_users(users, fold_in, user, item), items, fold_in)


def placed_by_vectors(space: Space, vectors: Sequence[Half]) -> Space:
    """Fills the rows of items that nobody has liked.

    Args:
        space: rows after `placed`, or as learned.
        vectors: float16 [I, V] each, columns at unit length; a zero row is missing.
    """
    if not vectors:
        return space
    own = np.hstack(list(vectors))
    has_vector, liked = nonzero_rows(own), nonzero_rows(space.fold_in)
    known, unknown = np.flatnonzero(has_vector & liked), np.flatnonzero(has_vector & ~liked)
    if not len(known) or not len(unknown):
        return space
    import faiss

    queries, rows = own[unknown].astype(np.float32), own[known].astype(np.float32)
    _, nearest = faiss.knn(queries, rows, min(NEAREST, len(known)), metric=faiss.METRIC_INNER_PRODUCT)
    sums = np.zeros((len(unknown), space.items.shape[1]))
    for rank in nearest.T:
        sums += space.items[known[rank]]
    items = space.items.copy()
    items[unknown] = _unit(sums)
    return replace(space, items=items)


def _placed_users(users: Half, fold_in: Half, user: Rows, item: Rows) -> Half:
    unknown = ~nonzero_rows(users)
    filled = users.copy()
    filled[unknown] = _unit(_sums(fold_in.astype(np.float64), item, user, unknown))
    return filled


def _sums(rows: NDArray[np.float64], source: Rows, target: Rows, mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """For each target in the mask the sum of the rows of its sources, in the order of targets."""
    selected = mask[target]
    place = np.cumsum(mask) - 1
    sums = np.zeros((int(mask.sum()), rows.shape[1]))
    np.add.at(sums, place[target[selected]], rows[source[selected]])
    return sums


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0))


def _length(space: Space, degree: NDArray[np.int64]) -> float:
    """The median, over known items, of |fold_in| times the root of the degree."""
    known = nonzero_rows(space.fold_in) & (degree > 0)
    if not known.any():
        return 0.5
    return float(np.median(np.linalg.norm(space.fold_in[known].astype(np.float64), axis=1) * np.sqrt(degree[known])))
