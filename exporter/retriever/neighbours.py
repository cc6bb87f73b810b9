"""Users' lists, and who is similar to whom: exactly what the library's own search finds, which does the searching here, too.

Lists of users by embedding
1. Centres are the means of a seeded spherical k-means over the users with an embedding: 4 sqrt(U) lists.
2. A user is in the list of the nearest centre, by exact sums, ties to the lower list. Empty lists are dropped.
3. A search scans the PROBES lists with the nearest centres, by exact sums, and all users in them.

docs/format/prompt.md defines the search. docs/notes/scale/indexing.md has its recall and cost.

A user's embedding is folded in from the items they liked, both for the stored lists and in a prompt that sees fewer or more
interactions. Equal embeddings tie to the lower row; a zero embedding neither has a neighbour nor is one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rexit import _native
from rexit.exporter.catalog.catalog_files import Tensors, offsets
from rexit.format.bundle.catalog import Catalog
from rexit.progress import Progress, silent

EXACT = 100_000
"""Up to this many users with an embedding are all scanned: a millisecond or two, on a device too."""
PROBES = 128
"""Lists that a search scans. docs/notes/scale/indexing.md has the recall with fewer."""
SAMPLE, MAX_SAMPLED = 64, 1 << 18  # users per list, and in all, that k-means learns from
ROUNDS = 10
CHUNK = 512  # users between two reports of progress, by one thread


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
        for begin in range(0, len(embeddings), CHUNK):
            rows = begin + np.flatnonzero(embeddings[begin : begin + CHUNK].any(1))
            lists.owner[rows] = _native.nearest_row(_bits(embeddings[rows]), _bits(centres))
            progress("lists of users", min(len(embeddings), begin + CHUNK), len(embeddings))
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


def nonzero_rows(vectors: NDArray[Any]) -> NDArray[np.bool_]:
    """Which of the rows [n, D] are not zero: bool [n]. A zero vector is an unknown user or item, near to nothing."""
    rows: NDArray[np.bool_] = np.count_nonzero(vectors, axis=1) > 0
    return rows


def native(
    users: NDArray[np.float16], items: NDArray[np.float16], fold_in: NDArray[np.float16], lists: Lists | None
) -> _native.Embeddings:
    """The library's view of embeddings [U, D], [I, D] and [I, D]."""
    arrays = None
    if lists is not None:
        table = lists.tensors(users)
        users = table["embeddings"]
        arrays = (lists.probes, _bits(table["centres"]), table["list_offsets"], table["list_users"])
    return _native.Embeddings(_bits(users), _bits(items), _bits(fold_in), arrays)


def similar_users(
    embeddings: NDArray[np.float16],
    fold_in: NDArray[np.float16],
    histories: Mapping[str, NDArray[Any]],
    k: int,
    lists: Lists | None = None,
    progress: Progress = silent,
    own: bool = False,
) -> NDArray[np.int32]:
    """The similar users of every user: nearest to the embedding folded in from the whole history.

    Args:
        embeddings: float16 [U, D], of users.
        fold_in: float16 [I, D], of items.
        histories: the `history_*` tensors of docs/format.md.
        k: similar users of a user.
        lists: the catalog's lists of users, if it has any.
        progress: called with "similar users", the users done and their number.
        own: search for a user's own embedding where it is not zero.

    Returns:
        int32 [U, min(k, U - 1)], nearest first. A user with fewer neighbours has its own row in the remaining places.
    """
    count, users = min(k, len(embeddings) - 1), len(embeddings)
    search = native(embeddings, fold_in, fold_in, lists)
    starts, items, liked = (np.ascontiguousarray(histories[f"history_{name}"]) for name in ("offsets", "items", "liked"))
    progress("similar users", 0, users)

    def rows(begin: int) -> NDArray[np.int32]:
        return search.similar(starts, items, liked, begin, min(begin + CHUNK, users), count, own)

    parts = [np.empty((0, count), np.int32)]
    with ThreadPoolExecutor(os.cpu_count()) as threads:  # the library leaves the interpreter to others
        for part in threads.map(rows, range(0, users, CHUNK)):
            parts.append(part)
            progress("similar users", sum(map(len, parts)), users)
    return np.concatenate(parts)


def _bits(table: NDArray[np.float16]) -> NDArray[np.uint16]:
    return np.ascontiguousarray(table).view(np.uint16)
