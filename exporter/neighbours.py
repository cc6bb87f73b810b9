"""Exact nearest neighbours by dot product, as the runtime computes them: float16 values, float64 sums."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def top(scores: NDArray[np.float64], k: int) -> NDArray[np.int64]:
    """The indices of the k largest of `scores` [n], largest first, ties to the lower index. Minus infinity is never taken."""
    k = min(k, int(np.isfinite(scores).sum()))
    if k == 0:
        return np.empty(0, np.int64)
    at_least = np.flatnonzero(scores >= np.partition(scores, len(scores) - k)[len(scores) - k])
    return at_least[np.argsort(-scores[at_least], kind="stable")][:k]


def similar_users(embeddings: NDArray[np.float16], k: int) -> NDArray[np.int32]:
    """For each of the n users [n, D] the min(k, n - 1) nearest others: int32 [n, k], nearest first."""
    n = len(embeddings)
    k = min(k, n - 1)
    exact = embeddings.astype(np.float64)
    result = np.empty((n, k), np.int32)
    for begin in range(0, n, 256):
        scores = exact[begin : begin + 256] @ exact.T
        for row, line in enumerate(scores, begin):
            line[row] = -np.inf
            result[row] = top(line, k)
    return result
