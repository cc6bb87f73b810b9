"""Exact nearest neighbours by dot product, as the runtime computes them.

A user's embedding is folded in from what they liked, at index time for the stored lists and in every prompt that sees less or
more than those: one way for all. It is rounded to float16 like the embeddings it is compared with: products of such numbers
are exact in float32 and their sums in float64, so that neither the order of summing nor the machine changes who is near.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

CHUNK = 256  # users searched for at once


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
    total = fold_in.astype(np.float64).sum(0)
    _, exponent = np.frexp(np.abs(total).max())
    embedding: NDArray[np.float16] = np.ldexp(total, -exponent).astype(np.float16)
    return embedding


class Neighbourhood:
    """The users that can be similar to somebody: `embeddings` float16 [U, D]. `k` of them at most are."""

    def __init__(self, embeddings: NDArray[np.float16], k: int) -> None:
        self._embeddings = embeddings.astype(np.float64)
        self._unknown = ~nonzero_rows(embeddings)
        self.k = k

    def nearest(self, queries: NDArray[np.float16], own: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """For each query [n, D] the nearest users' rows, nearest first, without its `own` row [n] (-1: has none).

        A zero query has no neighbours, and a user with a zero embedding is nobody's.
        """
        scores = queries.astype(np.float64) @ self._embeddings.T
        scores[:, self._unknown] = -np.inf
        scores[~nonzero_rows(queries)] = -np.inf
        rows = np.flatnonzero(own >= 0)
        scores[rows, own[rows]] = -np.inf
        return [top(line, self.k) for line in scores]


def similar_users(
    embeddings: NDArray[np.float16], fold_in: NDArray[np.float16], histories: Mapping[str, NDArray[Any]], k: int
) -> NDArray[np.int32]:
    """For each of the U users (`embeddings` [U, D]) the min(k, U - 1) nearest others to the embedding folded in from all they
    liked (`fold_in` [I, D], `history_*` as docs/format.md has them): int32 [U, k], nearest first.

    Where there are fewer, as there are for a user of whom nothing is known, the user's own row fills up the rest.
    """
    users = np.arange(len(embeddings))
    # Own rows rather than -1: every value stays an index that no reader can step out of bounds with.
    result = np.repeat(users.astype(np.int32)[:, None], min(k, len(users) - 1), axis=1)
    _search(result, users, embeddings, fold_in, histories)
    return result


def updated_similar_users(
    similar: NDArray[np.int32],
    embeddings: NDArray[np.float16],
    fold_in: NDArray[np.float16],
    histories: Mapping[str, NDArray[Any]],
    changed: NDArray[np.bool_],
    new: NDArray[np.bool_],
) -> NDArray[np.int32]:
    """What `similar_users` gives, from what it gave before. changed, bool [U]: who liked something since, or something that has a
    `fold_in` row now and had none. new, bool [U]: who has an embedding now and had none; all of them are `changed`. `similar`
    [U, k]: the former rows, own rows where there is none. No other embedding or history may have changed.
    """
    result = similar.copy()
    result[changed] = np.flatnonzero(changed).astype(np.int32)[:, None]
    _search(result, np.flatnonzero(changed), embeddings, fold_in, histories)
    added = np.flatnonzero(new)
    users = np.flatnonzero(~changed) if len(added) else added
    for begin in range(0, len(users), CHUNK):
        own = users[begin : begin + CHUNK]
        queries = _queries(own, fold_in, histories).astype(np.float64)
        candidates = np.concatenate([similar[own], np.broadcast_to(added, (len(own), len(added)))], 1)
        scores = np.empty(candidates.shape)
        scores[:, : similar.shape[1]] = np.einsum("nd,nkd->nk", queries, embeddings[similar[own]].astype(np.float64))
        scores[:, similar.shape[1] :] = queries @ embeddings[added].astype(np.float64).T
        scores[candidates == own[:, None]] = -np.inf
        scores[~nonzero_rows(queries)] = -np.inf
        order = np.lexsort((candidates, -scores))[:, : similar.shape[1]]
        nearest = np.take_along_axis(candidates, order, 1)
        result[own] = np.where(np.isfinite(np.take_along_axis(scores, order, 1)), nearest, own[:, None])
    return result


def _search(
    result: NDArray[np.int32],
    users: NDArray[np.int64],
    embeddings: NDArray[np.float16],
    fold_in: NDArray[np.float16],
    histories: Mapping[str, NDArray[Any]],
) -> None:
    """Fills the `users`' rows of `result` as far as they have neighbours."""
    around = Neighbourhood(embeddings, result.shape[1])
    for begin in range(0, len(users), CHUNK):
        own = users[begin : begin + CHUNK]
        for user, nearest in zip(own, around.nearest(_queries(own, fold_in, histories), own), strict=True):
            result[user, : len(nearest)] = nearest


def _queries(
    users: NDArray[np.int64], fold_in: NDArray[np.float16], histories: Mapping[str, NDArray[Any]]
) -> NDArray[np.float16]:
    """Their embeddings, folded in from all they liked: [n, D]."""
    starts, items, liked = (histories[f"history_{name}"] for name in ("offsets", "items", "liked"))
    met = [slice(starts[user], starts[user + 1]) for user in users]
    return np.stack([folded_in(fold_in[items[part][liked[part] > 0]]) for part in met])
