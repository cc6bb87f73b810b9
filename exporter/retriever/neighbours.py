"""Nearest neighbours by dot product, as the runtime computes them: among all users, or with an inverted file in a few lists.

Lists of users by embedding
1. Centres are the means of a seeded spherical k-means over the users with an embedding: 4 sqrt(U) lists.
2. A user is in the list of the nearest centre, by exact sums, ties to the lower list. Empty lists are dropped.
3. A search scans the PROBES lists with the nearest centres, by exact sums, and all users in them.

docs/format/prompt.md defines the search; the runtime does the same. docs/notes/scale/indexing.md has its recall and cost.

A user's embedding is folded in from the items they liked, both for the stored lists and in a prompt that sees fewer or more
interactions. It is rounded to float16 like the embeddings it is compared with. Products of such numbers are exact in float32,
their sums in float64. So neither the order of summing nor the machine changes the result.

The search
1. Equal embeddings are searched once, zero embeddings never.
2. Products in float32 select more candidates than requested, among all users (`Flat`) or, with lists, among those in the
   nearest lists (`Inverted`).
3. Candidates are scored exactly and ordered, ties to the lower row. Every vector that float32 could have misplaced is a
   candidate, so the result is exact. Candidates are pairs (query, vector), two int64 [m], grouped by query in ascending order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rexit.exporter.catalog.catalog_files import Tensors, offsets, slices
from rexit.format.bundle.catalog import Catalog
from rexit.progress import Progress, silent

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


CHUNK = 128  # users per search


def nonzero_rows(vectors: NDArray[Any]) -> NDArray[np.bool_]:
    """Which of the rows [n, D] are not zero: bool [n]. A zero vector is an unknown user or item, near to nothing."""
    rows: NDArray[np.bool_] = np.count_nonzero(vectors, axis=1) > 0
    return rows


def _directions(sums: NDArray[np.float64]) -> NDArray[np.float16]:
    """Users' embeddings from sums of the `fold_in` rows of the items they liked, [n, D]; zeros stay zeros.

    A sum is divided by the power of two that brings its largest component into [0.5, 1). Its length does not matter, and its
    rounding does not depend on the order of summing.
    """
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
    """Users folded in from their whole histories: float16 [n, D]."""
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
