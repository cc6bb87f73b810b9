"""Candidates of a nearest-neighbour search by float32 products, and their order by exact sums.

Candidates are pairs (query, vector), two int64 [m], grouped by query in ascending order.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]

SPARE = 12  # candidates beyond the k requested


def margin(queries: NDArray[np.float32], longest: float) -> NDArray[np.float32]:
    """How far rounding can misorder two products of a query [n, D] with vectors no longer than `longest`: float32 [n].

    A sum of D products is off by less than D 2^-24 |q| |v|; two sums are compared.
    """
    bound: NDArray[np.float32] = np.linalg.norm(queries, axis=1) * np.float32(longest * queries.shape[1] * 2.0**-23 * 1.01)
    return bound


def completed(
    products: NDArray[np.float32],
    vectors: NDArray[np.int64],
    k: int,
    margins: NDArray[np.float32],
    at_least: Callable[[int, float], NDArray[np.int64]],
) -> Pairs:
    """Every pair that could be among the k best by exact sums.

    Args:
        products, vectors: [n, m] with m > k, the best m of each query, best first; vectors are -1 where there are no more.
        k: vectors requested per query.
        margins: [n], the result of `margin`.
        at_least: maps a query and a product to all vectors with at least that product. Called if the m-th is within the margin.
    """
    least = products[:, k - 1] - margins
    close = (vectors[:, -1] >= 0) & (products[:, -1] >= least)
    query, place = np.nonzero((vectors >= 0) & ~close[:, None])
    parts = [(query, vectors[query, place])]
    for row in np.flatnonzero(close).tolist():
        matches = at_least(row, float(least[row]))
        parts.append((np.full(len(matches), row), matches))
    query, vector = (np.concatenate(part) for part in zip(*parts, strict=True))
    order = np.argsort(query, kind="stable")
    return query[order], vector[order]


def exact(a: NDArray[np.float16], b: NDArray[np.float16]) -> NDArray[np.float64]:
    """The products of the rows of two tables [m, D]: float64 [m], independent of the order of summing."""
    products: NDArray[np.float64] = np.einsum("nd,nd->n", a.astype(np.float64), b.astype(np.float64))
    return products


def ranked(
    query: NDArray[np.int64], scores: NDArray[np.float64], tie: NDArray[np.int64], k: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The k candidates of each query with the largest scores, ties to the lower `tie`.

    Args:
        query, scores, tie: [m], of the candidates.
        k: candidates per query.

    Returns:
        Indices of the candidates, ordered by query and score, and their places from 0.
    """
    order = np.lexsort((tie, -scores, query))
    ordered = query[order]
    place = np.arange(len(ordered)) - np.searchsorted(ordered, ordered)
    return order[place < k], place[place < k]


class Flat:
    """A faiss index over all of `vectors` float32 [n, D]."""

    def __init__(self, vectors: NDArray[np.float32]) -> None:
        import faiss

        self.vectors = vectors
        self.longest = float(np.linalg.norm(vectors, axis=1).max()) if len(vectors) else 0.0
        self._index = faiss.IndexFlatIP(vectors.shape[1])
        self._index.add(vectors)

    def candidates(self, queries: NDArray[np.float16], k: int) -> Pairs:
        """Pairs that include the k vectors with the largest exact products: rounding adds candidates and removes none."""
        count = len(self.vectors)
        if count <= k + SPARE:
            return np.repeat(np.arange(len(queries)), count), np.tile(np.arange(count), len(queries))
        exact_queries = queries.astype(np.float32)
        products, rows = self._index.search(exact_queries, k + SPARE)

        def at_least(query: int, least: float) -> NDArray[np.int64]:
            return np.flatnonzero(self.vectors @ exact_queries[query] >= least)

        return completed(products, rows, k, margin(exact_queries, self.longest), at_least)
