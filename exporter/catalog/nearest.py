"""Candidates for a nearest-neighbour search, by products in float32, and the order that exact sums give them.

Candidates are pairs (query, vector), two int64 [m], grouped by query in ascending order.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]

TILE = 1 << 17  # vectors multiplied at once: 64 MB of products for 128 queries
SPARE = 12  # candidates beyond those wanted
WIDTH = 128  # products of which only the largest is compared at first


def margin(queries: NDArray[np.float32], longest: float) -> NDArray[np.float32]:
    """How far two products of a query [n, D] and vectors no longer than `longest` can be misplaced beside each other: [n].

    A sum of D products is off by less than D 2^-24 |q| |v|; two sums are compared.
    """
    off: NDArray[np.float32] = np.linalg.norm(queries, axis=1) * np.float32(longest * queries.shape[1] * 2.0**-23 * 1.01)
    return off


def completed(
    products: NDArray[np.float32],
    vectors: NDArray[np.int64],
    k: int,
    margins: NDArray[np.float32],
    at_least: Callable[[int, float], NDArray[np.int64]],
) -> Pairs:
    """The pairs that could be among the k best, from more than k of each query, best first: [n, m], vectors -1 where there are no
    more. at_least: all vectors with such a product with a query, for where those beyond the m-th may be near enough, too."""
    least = products[:, k - 1] - margins
    close = (vectors[:, -1] >= 0) & (products[:, -1] >= least)
    query, place = np.nonzero((vectors >= 0) & ~close[:, None])
    parts = [(query, vectors[query, place])]
    for row in np.flatnonzero(close).tolist():
        found = at_least(row, float(least[row]))
        parts.append((np.full(len(found), row), found))
    query, vector = (np.concatenate(part) for part in zip(*parts, strict=True))
    order = np.argsort(query, kind="stable")
    return query[order], vector[order]


def exact(a: NDArray[np.float16], b: NDArray[np.float16]) -> NDArray[np.float64]:
    """The products of the rows of two [m, D]: [m]. No order of summing changes them."""
    products: NDArray[np.float64] = np.einsum("nd,nd->n", a.astype(np.float64), b.astype(np.float64))
    return products


def ranked(
    query: NDArray[np.int64], scores: NDArray[np.float64], tie: NDArray[np.int64], k: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of each query's candidates, all [m], the k with the largest scores, ties to the lower `tie`: which ones, ordered by query
    and score, and their places from 0."""
    order = np.lexsort((tie, -scores, query))
    ordered = query[order]
    place = np.arange(len(ordered)) - np.searchsorted(ordered, ordered)
    return order[place < k], place[place < k]


class Flat:
    """All products with `vectors` [n, D], TILE of them at a time: its memory does not grow with them."""

    def __init__(self, vectors: NDArray[np.float32]) -> None:
        self._vectors = torch.from_numpy(vectors)
        self._longest = float(torch.linalg.vector_norm(self._vectors, dim=1).max()) if len(vectors) else 0.0

    def candidates(self, queries: NDArray[np.float16], k: int) -> Pairs:
        """At least the k vectors with the largest products, of exact sums: rounding adds candidates and takes none away."""
        asked = torch.from_numpy(queries.astype(np.float32))
        count = len(self._vectors)
        if count <= k + SPARE:
            return np.repeat(np.arange(len(queries)), count), np.tile(np.arange(count), len(queries))
        best = torch.empty(len(asked), 0)
        rows = torch.empty(len(asked), 0, dtype=torch.int64)
        for begin in range(0, count, TILE):
            found, at = largest(asked @ self._vectors[begin : begin + TILE].T, k + SPARE)
            best, rows = torch.cat([best, found], 1), torch.cat([rows, at + begin], 1)
            best, chosen = best.topk(min(k + SPARE, best.shape[1]))
            rows = rows.gather(1, chosen)
        margins = margin(asked.numpy(), self._longest)
        return completed(best.numpy(), rows.numpy(), k, margins, lambda query, least: self._at_least(asked[query], least))

    def _at_least(self, query: Tensor, least: float) -> NDArray[np.int64]:
        found: NDArray[np.int64] = torch.nonzero(self._vectors @ query >= least).flatten().numpy()
        return found


def largest(products: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row [n, m], or all m: values and places. Maxima of WIDTH products each say where they can be."""
    groups = products.shape[1] // WIDTH
    if groups < 2 * k:
        return products.topk(min(k, products.shape[1]))
    in_groups = products[:, : groups * WIDTH].view(len(products), WIDTH, groups)
    group = in_groups.amax(1).topk(k, sorted=False).indices
    place = (group[:, None, :] + torch.arange(WIDTH)[:, None] * groups).flatten(1)
    rest = torch.arange(groups * WIDTH, products.shape[1]).expand(len(products), -1)
    place = torch.cat([place, rest], 1)
    values, chosen = products.gather(1, place).topk(k)
    return values, place.gather(1, chosen)
