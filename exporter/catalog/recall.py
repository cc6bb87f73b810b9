"""Recall@k of a recommender against held-out likes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CHUNK, SCORES = 1024, 1 << 25  # users, and scores, computed at once
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
        seen_keys, wanted_keys = (edges[0] * items + edges[1] for edges in (seen, wanted))
        found = np.setdiff1d(wanted_keys, seen_keys)
        users = np.unique(found // items)
        if len(users) > SAMPLE:
            users = np.sort(np.random.default_rng(0).choice(users, SAMPLE, replace=False))
            found = found[np.isin(found // items, users)]
        self._seen = torch.from_numpy(np.unique(seen_keys[np.isin(seen[0], users)]))
        self._wanted = torch.from_numpy(found)
        self._users, self._counts = torch.unique(self._wanted // items, return_counts=True)

    def at(self, k: int, scores: Callable[[Tensor], Tensor]) -> float | None:
        """`scores` maps user rows [n] to scores [n, items] it gives away. None where there is nothing to find."""
        if not len(self._users):
            return None
        recalls, chunk = [], max(1, min(CHUNK, SCORES // self._items))
        for users, counts in zip(self._users.split(chunk), self._counts.split(chunk), strict=True):
            line = scores(users).clone()
            begin, end = (torch.searchsorted(self._seen, edge) for edge in (users * self._items, (users + 1) * self._items))
            taken = torch.cat([self._seen[a:b] % self._items for a, b in zip(begin, end, strict=True)])
            line[torch.repeat_interleave(torch.arange(len(users)), end - begin), taken] = -torch.inf
            best = line.topk(min(k, self._items)).indices
            hits = torch.isin(users[:, None] * self._items + best, self._wanted).sum(1)
            recalls.append(hits / counts)
        return float(torch.cat(recalls).mean())
