"""Nearest neighbours by dot product, as the runtime computes them.

A user's embedding is folded in from what they liked, at index time for the stored lists and in every prompt that sees less or
more than those: one way for all. It is rounded to float16 like the embeddings it is compared with: products of such numbers
are exact in float32 and their sums in float64, so that neither the order of summing nor the machine changes who is near.

The search
1. Equal embeddings are searched for once; zero ones never.
2. A product in float32 names more candidates than are wanted, of all users (`nearest.Flat`) or, where there are lists, of those
   in the nearest ones (`lists.Inverted`).
3. Candidates are scored exactly and ordered, ties to the lower row. Whatever else float32 could have misplaced is a candidate,
   too, so that the result is the definition's.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rexit.exporter.catalog.lists import Inverted, Lists
from rexit.exporter.catalog.nearest import Flat, exact, ranked
from rexit.progress import Progress, silent

CHUNK = 128  # users searched for at once


def top(scores: NDArray[np.float64], k: int) -> NDArray[np.int64]:
    """The indices of the k largest of `scores` [n], largest first, ties to the lower index. Minus infinity is never taken."""
    k = min(k, int(np.isfinite(scores).sum()))
    if k == 0:
        return np.empty(0, np.int64)
    at_least = np.flatnonzero(scores >= np.partition(scores, len(scores) - k)[len(scores) - k])
    return at_least[np.argsort(-scores[at_least], kind="stable")][:k]


def nonzero_rows(vectors: NDArray[Any]) -> NDArray[np.bool_]:
    """Which of the rows [n, D] are not zero: of a zero vector nothing is known, so it is near to nothing."""
    rows: NDArray[np.bool_] = np.count_nonzero(vectors, axis=1) > 0
    return rows


def folded_in(fold_in: NDArray[np.float16]) -> NDArray[np.float16]:
    """A user's embedding [D] from the `fold_in` rows [n, D] of the items they liked; zero for none.

    Their sum, over the power of two that brings its largest component into [0.5, 1): a direction, whose length does not
    matter, without a rounding that depends on the order of summing.
    """
    direction: NDArray[np.float16] = _directions(fold_in.astype(np.float64).sum(0, keepdims=True))[0]
    return direction


def _directions(sums: NDArray[np.float64]) -> NDArray[np.float16]:
    _, exponents = np.frexp(np.abs(sums).max(1, keepdims=True))
    embeddings: NDArray[np.float16] = np.ldexp(sums, -exponents).astype(np.float16)
    return embeddings


class Neighbourhood:
    """The users that can be similar to somebody: `embeddings` float16 [U, D], in `lists` or all of them. `k` of them at most
    are."""

    def __init__(self, embeddings: NDArray[np.float16], k: int, lists: Lists | None = None) -> None:
        self._embeddings = embeddings
        self._lists = lists
        self.k = k

    @cached_property
    def _groups(self) -> tuple[NDArray[np.float16], NDArray[np.int64], NDArray[np.int64]]:
        """The different embeddings [G, D], and the rows of their users: those of group g are rows[starts[g] : starts[g + 1]],
        ascending."""
        known = np.flatnonzero(nonzero_rows(self._embeddings))
        # + 0: a component of -0 equals one of 0, its bytes do not.
        vectors = np.ascontiguousarray(self._embeddings[known] + np.float16(0))
        whole = vectors.view(np.dtype((np.void, vectors.itemsize * vectors.shape[1]))).ravel()
        _, first, group, counts = np.unique(whole, return_index=True, return_inverse=True, return_counts=True)
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return vectors[first], starts, known[np.argsort(group.ravel(), kind="stable")]

    @cached_property
    def _search(self) -> Flat | Inverted:
        vectors, starts, rows = self._groups
        if self._lists is None:
            return Flat(vectors.astype(np.float32))
        return Inverted(vectors, self._lists.owner[rows[starts[:-1]]], self._lists)

    def nearest(self, queries: NDArray[np.float16], own: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """For each query [n, D] the nearest users' rows, nearest first, without its `own` row [n] (-1: has none).

        A zero query has no neighbours, and a user with a zero embedding is nobody's.
        """
        asked = np.flatnonzero(nonzero_rows(queries))
        found = np.full((len(queries), self.k), -1)
        if len(asked) and self.k > 0 and len(self._groups[0]):
            found[asked] = self._nearest(queries[asked], own[asked])
        return [row[row >= 0] for row in found]

    def _nearest(self, queries: NDArray[np.float16], own: NDArray[np.int64]) -> NDArray[np.int64]:
        """int64 [n, k], -1 where there are no more. No query is zero."""
        vectors, starts, rows = self._groups
        # One more than is wanted: the own row may be among them.
        query, group = self._search.candidates(queries, self.k + 1)
        scores = exact(queries[query], vectors[group])
        members = np.minimum(np.diff(starts)[group], self.k + 1)
        each = np.repeat(np.arange(len(group)), members)
        user = rows[starts[group[each]] + np.arange(len(each)) - np.repeat(np.cumsum(members) - members, members)]
        other = user != own[query[each]]
        each, user = each[other], user[other]
        taken, place = ranked(query[each], scores[each], user, self.k)
        nearest = np.full((len(queries), self.k), -1)
        nearest[query[each[taken]], place] = user[taken]
        return nearest


def similar_users(
    embeddings: NDArray[np.float16],
    fold_in: NDArray[np.float16],
    histories: Mapping[str, NDArray[Any]],
    k: int,
    lists: Lists | None = None,
    progress: Progress = silent,
    queries: NDArray[np.float16] | None = None,
) -> NDArray[np.int32]:
    """For each of the U users (`embeddings` [U, D]) the min(k, U - 1) nearest others to the embedding folded in from all they
    liked (`fold_in` [I, D], `history_*` as docs/format.md has them): int32 [U, k], nearest first. lists: those that the catalog
    will have.

    queries, [U, D]: what to be near to instead, where it is not zero. Where there are fewer, as there are for a user of whom
    nothing is known, the user's own row fills up the rest.
    """
    users = np.arange(len(embeddings))
    # Own rows rather than -1: every value stays an index that no reader can step out of bounds with.
    result = np.repeat(users.astype(np.int32)[:, None], min(k, len(users) - 1), axis=1)
    _search(result, users, Neighbourhood(embeddings, result.shape[1], lists), fold_in, histories, progress, queries)
    return result


def updated_similar_users(
    similar: NDArray[np.int32],
    embeddings: NDArray[np.float16],
    fold_in: NDArray[np.float16],
    histories: Mapping[str, NDArray[Any]],
    changed: NDArray[np.bool_],
    new: NDArray[np.bool_],
    lists: Lists | None = None,
) -> NDArray[np.int32]:
    """What `similar_users` gives, from what it gave before. changed, bool [U]: who liked something since, or something that has a
    `fold_in` row now and had none. new, bool [U]: who has an embedding now and had none; all of them are `changed`. `similar`
    [U, k]: the former rows, own rows where there is none. No other embedding or history may have changed, and no centre of
    `lists`.
    """
    result = similar.copy()
    result[changed] = np.flatnonzero(changed).astype(np.int32)[:, None]
    _search(result, np.flatnonzero(changed), Neighbourhood(embeddings, result.shape[1], lists), fold_in, histories)
    added = np.flatnonzero(new)
    users = np.flatnonzero(~changed) if len(added) else added
    for begin in range(0, len(users), CHUNK):
        own = users[begin : begin + CHUNK]
        folded = _folded_in_users(own, fold_in, histories)
        queries = folded.astype(np.float64)
        candidates = np.concatenate([similar[own], np.broadcast_to(added, (len(own), len(added)))], 1)
        scores = np.empty(candidates.shape)
        scores[:, : similar.shape[1]] = np.einsum("nd,nkd->nk", queries, embeddings[similar[own]].astype(np.float64))
        scores[:, similar.shape[1] :] = queries @ embeddings[added].astype(np.float64).T
        if lists is not None:
            seen = np.zeros((len(own), len(lists.centres)), np.bool_)
            np.put_along_axis(seen, lists.probed(folded), True, 1)
            scores[:, similar.shape[1] :][~seen[:, lists.owner[added]]] = -np.inf
        scores[candidates == own[:, None]] = -np.inf
        scores[~nonzero_rows(queries)] = -np.inf
        order = np.lexsort((candidates, -scores))[:, : similar.shape[1]]
        nearest = np.take_along_axis(candidates, order, 1)
        result[own] = np.where(np.isfinite(np.take_along_axis(scores, order, 1)), nearest, own[:, None])
    return result


def _search(
    result: NDArray[np.int32],
    users: NDArray[np.int64],
    around: Neighbourhood,
    fold_in: NDArray[np.float16],
    histories: Mapping[str, NDArray[Any]],
    progress: Progress = silent,
    queries: NDArray[np.float16] | None = None,
) -> None:
    """Fills the `users`' rows of `result` as far as they have neighbours."""
    for begin in range(0, len(users), CHUNK):
        progress("similar users", begin, len(users))
        own = users[begin : begin + CHUNK]
        asked = _folded_in_users(own, fold_in, histories)
        if queries is not None:
            asked = np.where(nonzero_rows(queries[own])[:, None], queries[own], asked)
        for user, nearest in zip(own, around.nearest(asked, own), strict=True):
            result[user, : len(nearest)] = nearest
    progress("similar users", len(users), len(users))


def _folded_in_users(
    users: NDArray[np.int64], fold_in: NDArray[np.float16], histories: Mapping[str, NDArray[Any]]
) -> NDArray[np.float16]:
    """`folded_in` of users: [n, D]."""
    begins = histories["history_offsets"][users]
    sizes = histories["history_offsets"][users + 1] - begins
    starts = np.concatenate([[0], np.cumsum(sizes)])
    met = np.repeat(begins - starts[:-1], sizes) + np.arange(starts[-1])
    liked = histories["history_liked"][met] > 0
    likes = np.concatenate([[0], np.cumsum(liked)])[starts]
    each = fold_in[histories["history_items"][met[liked]]].astype(np.float64)
    sums = np.zeros((len(users), fold_in.shape[1]))
    some = np.diff(likes) > 0
    if some.any():
        sums[some] = np.add.reduceat(each, likes[:-1][some])
    return _directions(sums)
