"""Recall@k of a recommender against held-out likes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rexit.exporter.catalog.nearest import largest

CHUNK, SCORES = 1024, 1 << 22  # users, and scores, computed at once: few enough for memory that is used again
SAMPLE = 20_000  # users a recall is measured on at most


class Recall:
    """Recall@k: the mean over users of (likes found among the k best items) / (likes to find).

    `seen` edges are never recommended, `wanted` edges that are not among them are what to find. Edges are (user rows, item rows).
    Of more than SAMPLE users with something to find, so many are drawn, always the same: the standard error of a recall is then
    below 0.0036.
    """

    def __init__(
        self, seen: tuple[NDArray[np.int64], NDArray[np.int64]], wanted: tuple[NDArray[np.int64], NDArray[np.int64]], items: int
    ) -> None:
        self._items = items
        asked = np.unique(wanted[0])
        seen_keys, wanted_keys = (_keys(edges, asked, items) for edges in (seen, wanted))
        found = wanted_keys[~_among(wanted_keys, seen_keys)]
        users = np.unique(found // items)
        if len(users) > SAMPLE:
            users = np.sort(np.random.default_rng(0).choice(users, SAMPLE, replace=False))
            found = found[np.isin(found // items, users, kind="table")]
        seen_keys = seen_keys[np.isin(seen_keys // items, users, kind="table")]
        self._seen, self._wanted = torch.from_numpy(seen_keys), torch.from_numpy(found)
        self.users, self._counts = torch.unique_consecutive(self._wanted // items, return_counts=True)
        """Those it is measured on, int64 ascending, and how many likes there are to find."""

    def at(self, k: int, scores: Callable[[Tensor], Tensor]) -> float | None:
        """`scores` maps user rows [n] to scores [n, items] it gives away. None where there is nothing to find."""
        if not len(self.users):
            return None
        recalls, chunk = [], max(1, min(CHUNK, SCORES // self._items))
        for users, counts in zip(self.users.split(chunk), self._counts.split(chunk), strict=True):
            line = scores(users).clone()
            edges = torch.stack([users[0], users[-1] + 1]) * self._items
            seen = self._seen[slice(*torch.searchsorted(self._seen, edges).tolist())]
            line[torch.searchsorted(users, seen // self._items), seen % self._items] = -torch.inf
            best = largest(line, min(k, self._items))[1]
            hits = torch.isin(users[:, None] * self._items + best, self._wanted).sum(1)
            recalls.append(hits / counts)
        return float(torch.cat(recalls).mean())


def _keys(edges: tuple[NDArray[np.int64], NDArray[np.int64]], users: NDArray[np.int64], items: int) -> NDArray[np.int64]:
    """One number for each edge of `users`, ascending and each once."""
    here = np.isin(edges[0], users, kind="table")
    keys = edges[0][here] * items + edges[1][here]
    keys.sort()
    return keys[np.diff(keys, prepend=-1) > 0]


def _among(values: NDArray[np.int64], known: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of `values` are in `known`; both ascend."""
    if not len(known):
        return np.zeros(len(values), bool)
    at = np.searchsorted(known, values)
    there: NDArray[np.bool_] = known[np.minimum(at, len(known) - 1)] == values
    return there
