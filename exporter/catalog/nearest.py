"""Candidates for a nearest-neighbour search in float32: by all products, or by an inverted file (faiss).

Both are given vectors [n, D] and answer `candidates(queries, k, spare)`: pairs (query, vector), two int64 [m], grouped by query
in ascending order.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]

TILE = 1 << 17  # vectors multiplied at once: 64 MB of products for 128 queries
PROBES = 128
WIDTH = 128  # products of which only the largest is compared at first


class Flat:
    """All products, TILE vectors at a time: its memory does not grow with them."""

    def __init__(self, vectors: NDArray[np.float32]) -> None:
        self._vectors = torch.from_numpy(vectors)
        self._longest = float(torch.linalg.vector_norm(self._vectors, dim=1).max()) if len(vectors) else 0.0

    def candidates(self, queries: NDArray[np.float32], k: int, spare: int) -> Pairs:
        """At least the k vectors with the largest products, of exact sums: rounding adds candidates and takes none away."""
        asked = torch.from_numpy(queries)
        count = len(self._vectors)
        if count <= k + spare:
            return np.repeat(np.arange(len(queries)), count), np.tile(np.arange(count), len(queries))
        best = torch.empty(len(asked), 0)
        rows = torch.empty(len(asked), 0, dtype=torch.int64)
        for begin in range(0, count, TILE):
            found, at = largest(asked @ self._vectors[begin : begin + TILE].T, k + spare)
            best, rows = torch.cat([best, found], 1), torch.cat([rows, at + begin], 1)
            best, chosen = best.topk(min(k + spare, best.shape[1]))
            rows = rows.gather(1, chosen)
        # A sum of D products in float32 is off by less than D 2^-24 |q| |v|; two sums are compared.
        dim = queries.shape[1]
        margin = torch.linalg.vector_norm(asked, dim=1) * (self._longest * dim * 2.0**-23 * 1.01)
        least = best[:, k - 1] - margin
        close = best[:, -1] >= least  # what follows the last candidate may be near enough, too
        query, vector = torch.nonzero(torch.ones_like(rows), as_tuple=True)[0], rows.flatten()
        if close.any():
            keep = ~close[query]
            query, vector = query[keep], vector[keep]
            extra = [(row, self._at_least(asked[row], float(least[row]))) for row in torch.nonzero(close).flatten().tolist()]
            query = torch.cat([query, *(torch.full((len(found),), row) for row, found in extra)])
            vector = torch.cat([vector, *(found for _, found in extra)])
            query, order = query.sort(stable=True)
            vector = vector[order]
        return query.numpy(), vector.numpy()

    def _at_least(self, query: Tensor, least: float) -> Tensor:
        return torch.nonzero(self._vectors @ query >= least).flatten()


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


class Inverted:
    """faiss's inverted file: vectors in lists around centres, of which the PROBES nearest to a query are searched whole.

    docs/scale.md has its recall. Seeded.
    """

    def __init__(self, vectors: NDArray[np.float32]) -> None:
        import faiss

        dim, lists = vectors.shape[1], int(4 * len(vectors) ** 0.5)
        self._centres = faiss.IndexFlatIP(dim)
        self._index = faiss.IndexIVFFlat(self._centres, dim, lists, faiss.METRIC_INNER_PRODUCT)
        self._index.cp.seed, self._index.cp.spherical, self._index.cp.max_points_per_centroid = 0, True, 64
        self._index.nprobe = PROBES
        self._index.train(vectors)
        self._index.add(vectors)

    def candidates(self, queries: NDArray[np.float32], k: int, spare: int) -> Pairs:
        """Most of the k vectors with the largest products, and `spare` more."""
        _, found = self._index.search(queries, k + spare)
        query, place = np.nonzero(found >= 0)
        return query, found[query, place]
