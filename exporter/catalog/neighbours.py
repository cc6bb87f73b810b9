"""Exact nearest neighbours by dot product, as the runtime computes them: float16 values, float64 sums."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


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


def similar_users(embeddings: NDArray[np.float16], k: int) -> NDArray[np.int32]:
    """For each of the n users [n, D] the min(k, n - 1) nearest others: int32 [n, k], nearest first.

    A user of whom nothing is known has no neighbours and is nobody's. Where there are fewer than k, the user's own row fills up
    the rest.
    """
    n = len(embeddings)
    k = min(k, n - 1)
    exact = embeddings.astype(np.float64)
    known = nonzero_rows(embeddings)
    # Own rows rather than -1: every value stays an index that no reader can step out of bounds with.
    result = np.repeat(np.arange(n, dtype=np.int32)[:, None], k, axis=1)
    for begin in range(0, n, 256):
        scores = exact[begin : begin + 256] @ exact.T
        scores[:, ~known] = -np.inf
        for row, line in enumerate(scores, begin):
            if known[row]:
                line[row] = -np.inf
                nearest = top(line, k)
                result[row, : len(nearest)] = nearest
    return result
