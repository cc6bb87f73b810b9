"""Lists of users by embedding, so that a search for similar users scans a few lists: an inverted file.

1. Centres are the means of a seeded spherical k-means over the users with an embedding: 4 sqrt(U) lists.
2. A user is in the list of the nearest centre, by exact sums, ties to the lower list. Empty lists are dropped.
3. A search scans the PROBES lists with the nearest centres, by exact sums, and all users in them.

docs/format/prompt.md defines the search; the runtime does the same. docs/notes/scale/indexing.md has its recall and cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rexit.bundle.catalog import Catalog
from rexit.exporter.catalog.chunks import offsets
from rexit.exporter.catalog.tables import Tensors
from rexit.exporter.retriever.nearest import SPARE, Flat, Pairs, completed, exact, margin, ranked
from rexit.progress import Progress, silent

EXACT = 100_000
"""Up to this many users with an embedding are all scanned: a millisecond or two, on a device too."""
PROBES = 128
"""Lists that a search scans. docs/notes/scale/indexing.md has the recall with fewer."""
BLOCK = 256  # embeddings assigned at once: their products with the centres stay in a cache
SAMPLE, MAX_SAMPLED = 64, 1 << 18  # users per list, and in all, that k-means learns from
ROUNDS = 10


@dataclass(frozen=True)
class Lists:
    """The lists of a catalog's users.

    centres: float16 [L, D]. owner: int64 [U], each user's list, -1 without an embedding. probes: number of lists a search scans.
    """

    centres: NDArray[np.float16]
    owner: NDArray[np.int64]
    probes: int

    @classmethod
    def needed(cls, embeddings: NDArray[np.float16], progress: Progress = silent) -> Lists | None:
        """Lists of the users' embeddings [U, D]; None if there are at most EXACT users with an embedding."""
        return cls.cluster(embeddings, progress) if np.count_nonzero(embeddings.any(1)) > EXACT else None

    @classmethod
    def cluster(cls, embeddings: NDArray[np.float16], progress: Progress = silent) -> Lists:
        """Lists of the users' embeddings [U, D], of which at least one is not zero. progress: called with "lists of users", the
        users assigned and their number."""
        progress("lists of users", 0, len(embeddings))  # k-means takes minutes for millions of users
        lists = cls.around(_centres(embeddings), PROBES, embeddings, progress)
        used, owner = np.unique(lists.owner, return_inverse=True)
        unknown = int(used[0] < 0)
        return cls(lists.centres[used[unknown:]], owner - unknown, PROBES)

    @classmethod
    def around(
        cls,
        centres: NDArray[np.float16],
        probes: int,
        embeddings: NDArray[np.float16],
        progress: Progress = silent,
    ) -> Lists:
        """Assigns the users' embeddings [U, D] to centres [L, D]."""
        lists = cls(centres, np.full(len(embeddings), -1), probes)
        for begin in range(0, len(embeddings), BLOCK):
            rows = begin + np.flatnonzero(embeddings[begin : begin + BLOCK].any(1))
            lists.owner[rows] = lists.nearest(embeddings[rows])
            progress("lists of users", min(len(embeddings), begin + BLOCK), len(embeddings))
        return lists

    @classmethod
    def of(cls, catalog: Catalog) -> Lists | None:
        """A catalog's lists; None if it has none, so that every search is exact."""
        if catalog.probes is None:
            return None
        table = catalog.user_table
        sizes = np.diff(table["list_offsets"])
        owner = np.full(len(table["list_users"]), -1)
        owner[table["list_users"][: sizes.sum()]] = np.repeat(np.arange(len(sizes)), sizes)
        return cls(table["centres"], owner, catalog.probes)

    def tensors(self, embeddings: NDArray[np.float16]) -> Tensors:
        """The tensors of users.safetensors, with `embeddings` [U, D] in the order of the lists."""
        order = np.argsort(np.where(self.owner < 0, len(self.centres), self.owner), kind="stable")
        return {
            "embeddings": embeddings[order],
            "centres": self.centres,
            "list_offsets": offsets(np.bincount(self.owner[self.owner >= 0], minlength=len(self.centres))),
            "list_users": order.astype(np.int32),
        }

    def probed(self, queries: NDArray[np.float16]) -> NDArray[np.int64]:
        """The lists that a search for each of `queries` [n, D] scans: int64 [n, P]."""
        return self._nearest(queries, min(self.probes, len(self.centres)))

    def nearest(self, queries: NDArray[np.float16]) -> NDArray[np.int64]:
        """The list with the nearest centre of each of `queries` [n, D]: int64 [n]. float32 decides where it can, which is
        nearly everywhere."""
        exact_queries = queries.astype(np.float32)
        products = exact_queries @ self._flat.vectors.T
        owners: NDArray[np.int64] = products.argmax(1)
        row = np.arange(len(queries))
        largest = products[row, owners]
        products[row, owners] = -np.inf
        close = products.max(1) >= largest - margin(exact_queries, self._flat.longest)
        if close.any():
            owners[close] = self._nearest(queries[close], 1)[:, 0]
        return owners

    def _nearest(self, queries: NDArray[np.float16], k: int) -> NDArray[np.int64]:
        query, centre = self._flat.candidates(queries, k)
        scores = exact(queries[query], self.centres[centre])
        return centre[ranked(query, scores, centre, k)[0]].reshape(len(queries), k)

    @cached_property
    def _flat(self) -> Flat:
        return Flat(self.centres.astype(np.float32))


def _centres(embeddings: NDArray[np.float16]) -> NDArray[np.float16]:
    import faiss

    known = np.flatnonzero(embeddings.any(1))
    count = int(4 * len(known) ** 0.5)
    sample = min(count * SAMPLE, MAX_SAMPLED)
    if len(known) > sample:
        known = np.sort(np.random.default_rng(0).choice(known, sample, replace=False))
    means = faiss.Kmeans(
        embeddings.shape[1],
        count,
        niter=ROUNDS,
        seed=0,
        spherical=True,
        min_points_per_centroid=1,
        max_points_per_centroid=SAMPLE,
    )
    means.train(embeddings[known].astype(np.float32))
    centres: NDArray[np.float16] = np.asarray(means.centroids).astype(np.float16)
    return centres


class Inverted:
    """A faiss index over `vectors` [n, D] in lists. owner: int64 [n], each vector's list."""

    def __init__(self, vectors: NDArray[np.float16], owner: NDArray[np.int64], lists: Lists) -> None:
        import faiss

        self._vectors, self._lists = vectors, lists
        self._longest = float(np.linalg.norm(vectors.astype(np.float32), axis=1).max())
        self._order = np.argsort(owner, kind="stable")
        self._starts = np.searchsorted(owner[self._order], np.arange(len(lists.centres) + 1))
        dim = vectors.shape[1]
        self._centres = faiss.IndexFlatIP(dim)  # must outlive the index, which holds no reference
        self._centres.add(lists.centres.astype(np.float32))
        # Any: faiss' type hints describe the C++ calls behind its Python methods.
        self._index: Any = faiss.IndexIVFFlat(self._centres, dim, len(lists.centres), faiss.METRIC_INNER_PRODUCT)
        members = self._index.invlists
        assert members is not None
        for number in range(len(lists.centres)):
            rows = self._rows(number)
            codes = vectors[rows].astype(np.float32)
            members.add_entries(number, len(rows), faiss.swig_ptr(rows), faiss.swig_ptr(codes.view(np.uint8)))
        self._index.ntotal = len(vectors)

    def _rows(self, number: int) -> NDArray[np.int64]:
        return self._order[self._starts[number] : self._starts[number + 1]]

    def candidates(self, queries: NDArray[np.float16], k: int) -> Pairs:
        """Pairs that include the k vectors with the largest exact products in the scanned lists."""
        exact_queries, probed = queries.astype(np.float32), self._lists.probed(queries)
        self._index.nprobe = probed.shape[1]
        # The lists are assigned already, so the distances to their centres are not read.
        products, rows = self._index.search_preassigned(exact_queries, k + SPARE, probed, np.zeros(probed.shape, np.float32))

        def at_least(query: int, least: float) -> NDArray[np.int64]:
            scanned = np.concatenate([self._rows(number) for number in probed[query]])
            matches: NDArray[np.int64] = scanned[self._vectors[scanned].astype(np.float32) @ exact_queries[query] >= least]
            return matches

        return completed(products, rows, k, margin(exact_queries, self._longest), at_least)
