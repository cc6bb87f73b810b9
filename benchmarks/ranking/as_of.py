"""The facts of a prompt as numbers: each pair's features as of its slate's moment, from a catalog's tables.

    data = Interactions(catalog)
    pairs = cut(catalog.split("test"), 20)
    counts = data.counts(pairs)                                       # float32 [n, 6]
    dot, lists = data.retrieved(pairs, space, data.folded_in(pairs, space))

Nothing at or after the moment is used, except what the embeddings themselves were trained on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rexit.format.bundle import Catalog, Split

COUNTS = ("user count", "user likes", "user rate", "item count", "item likes", "item rate")
LISTS = ("similar likes", "similar dislikes", "nearest likes", "nearest dislikes", "nearest verdict", "nearest 3 verdicts")
LIST = 10
"""Number of similar users, and of nearest items."""

Features = NDArray[np.float32]
Vectors = NDArray[np.floating]


class Space(Protocol):
    """LightGCN's embeddings: unit vectors `users` [U, D] and `items` [I, D], and `fold_in` [I, D]."""

    @property
    def users(self) -> Vectors: ...

    @property
    def items(self) -> Vectors: ...

    @property
    def fold_in(self) -> Vectors: ...


@dataclass(frozen=True)
class Pairs:
    """Rows of users and items int64 [n], `as_of` int64 [n], `liked` bool [n]; `slate` int64 [n] ascending from 0."""

    users: NDArray[np.int64]
    items: NDArray[np.int64]
    as_of: NDArray[np.int64]
    liked: NDArray[np.bool_]
    slate: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.users)

    def at(self, where: NDArray[np.bool_]) -> Pairs:
        """Returns some of the slates. where: bool [n], the same for all pairs of a slate."""
        slate = np.unique(self.slate[where], return_inverse=True)[1]
        return Pairs(self.users[where], self.items[where], self.as_of[where], self.liked[where], slate)

    @property
    def first(self) -> NDArray[np.int64]:
        """Where each slate begins."""
        return np.flatnonzero(np.r_[True, self.slate[1:] != self.slate[:-1]])


def cut(rows: Split, size: int) -> Pairs:
    """Returns the rows in the slates that rexit.data.slates.cut makes of them."""
    begins = np.flatnonzero(np.r_[True, rows.users[1:] != rows.users[:-1]])
    place = np.arange(len(rows)) - np.repeat(begins, np.diff(np.r_[begins, len(rows)]))
    slate = np.cumsum(place % size == 0) - 1
    first = np.flatnonzero(place % size == 0)
    return Pairs(rows.users, rows.items, rows.times[first][slate], rows.liked, slate)


class Interactions:
    """A catalog's interactions, prepared for look-ups of what was visible at a moment."""

    def __init__(self, catalog: Catalog) -> None:
        users, items = catalog.user_table, catalog.item_table
        self._offsets = users["history_offsets"].astype(np.int64)
        self._items, self._liked = users["history_items"].astype(np.int64), users["history_liked"] > 0
        self._times = np.unique(users["history_times"])
        self._span = len(self._times) + 1
        owner = np.repeat(np.arange(len(self._offsets) - 1), np.diff(self._offsets))
        rank = np.searchsorted(self._times, users["history_times"])
        self._by_user = owner * self._span + rank
        self._likes = np.r_[0, np.cumsum(self._liked)]
        self._item_offsets = items["rating_offsets"].astype(np.int64)
        item_owner = np.repeat(np.arange(len(self._item_offsets) - 1), np.diff(self._item_offsets))
        self._by_item = item_owner * self._span + np.searchsorted(self._times, items["rating_times"])
        self._item_likes = items["rating_likes"].astype(np.int64)
        pair = (owner * len(catalog.items) + self._items) * self._span + rank
        order = np.argsort(pair, kind="stable")
        self._pairs, self._verdicts = pair[order], self._liked[order]
        self._item_count = len(catalog.items)

    def counts(self, pairs: Pairs) -> Features:
        """Returns the pairs' COUNTS, float32 [n, 6]; a rate is (likes + 1) / (interactions + 2)."""
        moment = np.searchsorted(self._times, pairs.as_of)
        begin, end = self._offsets[pairs.users], np.searchsorted(self._by_user, pairs.users * self._span + moment)
        n, likes = end - begin, self._likes[end] - self._likes[begin]
        first = self._item_offsets[pairs.items]
        rated = np.searchsorted(self._by_item, pairs.items * self._span + moment) - first
        liked = np.where(rated > 0, self._item_likes[first + rated - 1], 0)
        return np.stack([n, likes, (likes + 1) / (n + 2), rated, liked, (liked + 1) / (rated + 2)], 1).astype(np.float32)

    def folded_in(self, pairs: Pairs, space: Space) -> Vectors:
        """Returns each pair's user as the fold-in of the visible likes: unit vectors, float64 [n, D], or zero without a like."""
        likes = space.fold_in[self._items].astype(np.float64) * self._liked[:, None]
        total = np.concatenate([np.zeros((1, likes.shape[1])), np.cumsum(likes, 0)])
        moment = np.searchsorted(self._times, pairs.as_of)
        begin, end = self._offsets[pairs.users], np.searchsorted(self._by_user, pairs.users * self._span + moment)
        any_like = (self._likes[end] > self._likes[begin])[:, None]
        vector = np.where(any_like, total[end] - total[begin], 0.0)
        length = np.linalg.norm(vector, axis=1, keepdims=True)
        unit: Vectors = np.divide(vector, length, out=np.zeros_like(vector), where=length > 1e-9)
        return unit

    def retrieved(self, pairs: Pairs, space: Space, user_vectors: Vectors) -> tuple[Features, Features]:
        """Returns the dot product of user and item [n, 1], and LISTS [n, 6]: verdicts of similar users and on nearest items."""
        dot = (user_vectors * space.items[pairs.items]).sum(1, keepdims=True)
        similar = self._similar_users(pairs, space, user_vectors)
        verdicts = self._verdict(similar, pairs.items[:, None], pairs.as_of[:, None])
        near = self._nearest(pairs, space)
        lists = np.stack(
            [(verdicts > 0).sum(1), (verdicts < 0).sum(1), (near > 0).sum(1), (near < 0).sum(1), near[:, 0], near[:, :3].sum(1)],
            1,
        )
        return dot.astype(np.float32), lists.astype(np.float32)

    def _similar_users(self, pairs: Pairs, space: Space, user_vectors: Vectors) -> NDArray[np.int64]:
        """The rows of the nearest other users, [n, LIST], -1 beyond the last."""
        first, known = pairs.first, (space.users != 0).any(1)
        users, vectors = pairs.users[first], user_vectors[first].astype(np.float32)
        nearest_rows = np.full((len(first), LIST), -1)
        for begin in range(0, len(first), 1024):
            part = slice(begin, begin + 1024)
            scores = vectors[part] @ space.users.T.astype(np.float32)
            scores[:, ~known] = -np.inf
            scores[np.arange(len(scores)), users[part]] = -np.inf
            best = np.argpartition(-scores, LIST - 1, axis=1)[:, :LIST]
            valid = np.isfinite(np.take_along_axis(scores, best, 1)) & (vectors[part] != 0).any(1)[:, None]
            nearest_rows[part] = np.where(valid, best, -1)
        return nearest_rows[pairs.slate]

    def _verdict(self, users: NDArray[np.int64], items: NDArray[np.int64], as_of: NDArray[np.int64]) -> NDArray[np.int8]:
        """1 for liked, -1 for not liked, 0 for an item not met before that moment, or no user."""
        pair = np.maximum(users, 0) * self._item_count + items
        at = np.searchsorted(self._pairs, pair * self._span + np.searchsorted(self._times, as_of)) - 1
        rated = (at >= 0) & (self._pairs[at] // self._span == pair) & (users >= 0)
        return np.where(rated, np.where(self._verdicts[at], 1, -1), 0).astype(np.int8)

    def _nearest(self, pairs: Pairs, space: Space) -> NDArray[np.int8]:
        """This user's verdicts on the visible items nearest to the target, nearest first: [n, LIST], 0 beyond the last."""
        result = np.zeros((len(pairs), LIST), np.int8)
        first = pairs.first
        ends = np.searchsorted(self._by_user, pairs.users[first] * self._span + np.searchsorted(self._times, pairs.as_of[first]))
        known = (space.items != 0).any(1)
        for a, b, begin, end in zip(first, np.r_[first[1:], len(pairs)], self._offsets[pairs.users[first]], ends, strict=True):
            valid, liked = self._items[begin:end], self._liked[begin:end]
            if not len(valid):
                continue
            targets = pairs.items[a:b]
            scores = space.items[targets] @ space.items[valid].T
            scores[(targets[:, None] == valid) | ~known[targets][:, None] | ~known[valid]] = -np.inf
            best = np.argsort(-scores, axis=1, kind="stable")[:, :LIST]
            there = np.isfinite(np.take_along_axis(scores, best, 1))
            result[a:b, : best.shape[1]] = np.where(there, np.where(liked[best], 1, -1), 0)
        return result
