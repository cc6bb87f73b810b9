"""Nearest neighbours by dot product, as the runtime computes them.

A user's embedding is folded in from the items they liked, both for the stored lists and in a prompt that sees fewer or more
interactions. It is rounded to float16 like the embeddings it is compared with. Products of such numbers are exact in float32,
their sums in float64. So neither the order of summing nor the machine changes the result.

The search
1. Equal embeddings are searched once, zero embeddings never.
2. Products in float32 select more candidates than requested, among all users (`nearest.Flat`) or, with lists, among those in the
   nearest lists (`lists.Inverted`).
3. Candidates are scored exactly and ordered, ties to the lower row. Every vector that float32 could have misplaced is a
   candidate, so the result is exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rexit.exporter.catalog.chunks import offsets, slices
from rexit.exporter.retriever.lists import Inverted, Lists
from rexit.exporter.retriever.nearest import Flat, exact, ranked
from rexit.progress import Progress, silent

CHUNK = 128  # users per search


def top(scores: NDArray[np.float64], k: int) -> NDArray[np.int64]:
    """The indices of the k largest of `scores` [n], largest first, ties to the lower index. Minus infinity is never taken."""
    k = min(k, int(np.isfinite(scores).sum()))
    if k == 0:
        return np.empty(0, np.int64)
    at_least = np.flatnonzero(scores >= np.partition(scores, len(scores) - k)[len(scores) - k])
    return at_least[np.argsort(-scores[at_least], kind="stable")][:k]


def nonzero_rows(vectors: NDArray[Any]) -> NDArray[np.bool_]:
    """Which of the rows [n, D] are not zero: bool [n]. A zero vector is an unknown user or item, near to nothing."""
    rows: NDArray[np.bool_] = np.count_nonzero(vectors, axis=1) > 0
    return rows


def folded_in(fold_in: NDArray[np.float16]) -> NDArray[np.float16]:
    """A user's embedding from the `fold_in` rows of the items they liked.

    The sum is divided by the power of two that brings its largest component into [0.5, 1). Its length does not matter, and its
    rounding does not depend on the order of summing.

    Args:
        fold_in: float16 [n, D].

    Returns:
        float16 [D]; zeros for n = 0.
    """
    direction: NDArray[np.float16] = _directions(fold_in.astype(np.float64).sum(0, keepdims=True))[0]
    return direction


def _directions(sums: NDArray[np.float64]) -> NDArray[np.float16]:
    _, exponents = np.frexp(np.abs(sums).max(1, keepdims=True))
    embeddings: NDArray[np.float16] = np.ldexp(sums, -exponents).astype(np.float16)
    return embeddings


class Neighbourhood:
    """A search for similar users.

    embeddings: float16 [U, D]. k: most similar users of a user. lists: which users a search scans; None: all.
    """

    def __init__(self, embeddings: NDArray[np.float16], k: int, lists: Lists | None = None) -> None:
        self._embeddings = embeddings
        self._lists = lists
        self.k = k

    @cached_property
    def _groups(self) -> tuple[NDArray[np.float16], NDArray[np.int64], NDArray[np.int64]]:
        """Distinct embeddings [G, D], and the users of each: group g has rows[starts[g] : starts[g + 1]], ascending."""
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
        """Finds similar users. Zero queries and zero embeddings have no neighbours.

        Args:
            queries: float16 [n, D], embeddings folded in.
            own: int64 [n], the row to leave out of each result; -1: none.

        Returns:
            For each query the users' rows, nearest first, at most k.
        """
        return [row[row >= 0] for row in self.table(queries, own)]

    def table(self, queries: NDArray[np.float16], own: NDArray[np.int64]) -> NDArray[np.int64]:
        """`nearest` as a table: int64 [n, k], -1 where there are no more."""
        nonzero = np.flatnonzero(nonzero_rows(queries))
        table = np.full((len(queries), self.k), -1)
        if len(nonzero) and self.k > 0 and len(self._groups[0]):
            table[nonzero] = self._nearest(queries[nonzero], own[nonzero])
        return table

    def _nearest(self, queries: NDArray[np.float16], own: NDArray[np.int64]) -> NDArray[np.int64]:
        """int64 [n, k], -1 where there are no more. Queries are not zero."""
        vectors, starts, rows = self._groups
        # k + 1, because the own row may be among them.
        query, group = self._search.candidates(queries, self.k + 1)
        scores = exact(queries[query], vectors[group])
        members = np.minimum(np.diff(starts)[group], self.k + 1)
        pair = np.repeat(np.arange(len(group)), members)
        user = rows[starts[group[pair]] + np.arange(len(pair)) - np.repeat(np.cumsum(members) - members, members)]
        other = user != own[query[pair]]
        pair, user = pair[other], user[other]
        best, place = ranked(query[pair], scores[pair], user, self.k)
        nearest = np.full((len(queries), self.k), -1)
        nearest[query[pair[best]], place] = user[best]
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
    """The similar users of every user: nearest to the embedding folded in from the whole history.

    Args:
        embeddings: float16 [U, D], of users.
        fold_in: float16 [I, D], of items.
        histories: the `history_*` tensors of docs/format.md.
        k: similar users of a user.
        lists: the catalog's lists of users, if it has any.
        progress: called with "similar users", the users done and their number.
        queries: float16 [U, D], used instead of the folded-in embeddings where not zero.

    Returns:
        int32 [U, min(k, U - 1)], nearest first. A user with fewer neighbours has its own row in the remaining places.
    """
    around = Neighbourhood(embeddings, min(k, len(embeddings) - 1), lists)
    return _search(np.arange(len(embeddings)), around, fold_in, histories, queries, progress)


def _search(
    users: NDArray[np.int64],
    around: Neighbourhood,
    fold_in: NDArray[np.float16],
    histories: Mapping[str, NDArray[Any]],
    queries: NDArray[np.float16] | None = None,
    progress: Progress = silent,
) -> NDArray[np.int32]:
    """The users' neighbours, int32 [n, k]; own rows where there are fewer."""
    result = np.empty((len(users), around.k), np.int32)
    progress("similar users", 0, len(users))
    for begin in range(0, len(users), CHUNK):
        own = users[begin : begin + CHUNK]
        folded = _folded_in_users(own, fold_in, histories)
        if queries is not None:
            folded = np.where(nonzero_rows(queries[own])[:, None], queries[own], folded)
        table = around.table(folded, own)
        # Own rows rather than -1: every value is a valid index.
        result[begin : begin + CHUNK] = np.where(table < 0, own[:, None], table)
        progress("similar users", begin + len(own), len(users))
    return result


def _folded_in_users(
    users: NDArray[np.int64], fold_in: NDArray[np.float16], histories: Mapping[str, NDArray[Any]]
) -> NDArray[np.float16]:
    """`folded_in` of users' whole histories: float16 [n, D]."""
    begins, ends = histories["history_offsets"][users], histories["history_offsets"][users + 1]
    starts, entries = offsets(ends - begins), slices(begins, ends)[1]
    liked = histories["history_liked"][entries] > 0
    likes = np.concatenate([[0], np.cumsum(liked)])[starts]
    rows = fold_in[histories["history_items"][entries[liked]]].astype(np.float64)
    sums = np.zeros((len(users), fold_in.shape[1]))
    nonempty = np.diff(likes) > 0
    if nonempty.any():
        sums[nonempty] = np.add.reduceat(rows, likes[:-1][nonempty])
    return _directions(sums)
