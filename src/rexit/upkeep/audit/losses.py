"""What a policy loses on one slate against full depth, from 0 to 1, without labels.

| loss                | value of a slate                                                  | slates that have one    |
|---------------------|-------------------------------------------------------------------|-------------------------|
| `top-k-overlap@K`   | share of full depth's first K that are not among the policy's     | more than K candidates  |
| `agreement`         | share of the candidates whose c has another sign at full depth    | all                     |
| `expected-ndcg@K`   | 1 minus NDCG of the first K, with full depth's probability as gain | not tied at full depth |
| `rank-correlation`  | share of the pairs of candidates in the other order, ties half:   | two or more candidates  |
|                     | (1 - Kendall's tau) / 2                                           | not tied at full depth  |

The first three are 1 minus the metric of the same name that `rexit calibrate --metric` takes.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from rexit.data.ranking import ByUser, descending, probabilities
from rexit.errors import InputError

CHOICES = "top-k-overlap@K or expected-ndcg@K with K from 1, agreement or rank-correlation"


@dataclass(frozen=True)
class Loss:
    """A loss without labels. kind: the name without K. k: 0 for those without a K."""

    kind: str
    k: int = 0

    @classmethod
    def parse(cls, name: str) -> Loss:
        """Returns the loss of a name. Raises InputError for any other name."""
        kind, at, digits = name.partition("@")
        if kind in ("top-k-overlap", "expected-ndcg") and digits.isascii() and digits.isdigit() and 1 <= int(digits) < 1 << 31:
            return cls(kind, int(digits))
        if kind in ("agreement", "rank-correlation") and not at:
            return cls(kind)
        raise InputError(f"loss {name!r}: unknown, expected {CHOICES}")

    @property
    def name(self) -> str:
        """As `parse` reads it."""
        return f"{self.kind}@{self.k}" if self.k else self.kind

    @property
    def title(self) -> str:
        """As sentences call it."""
        named = {"top-k-overlap": f"top-{self.k} overlap", "expected-ndcg": f"expected NDCG@{self.k}"}
        return named.get(self.kind, self.kind.replace("-", " "))

    def of_slate(self, policy: NDArray[np.float32], full: NDArray[np.float32]) -> float:
        """Returns the loss of a slate; nan if it has none.

        Args:
            policy: c where the policy stopped each candidate, float32 [n].
            full: c at the last exit, float32 [n].
        """
        return float(SlateLosses(full, np.array([0, len(full)])).of(self, policy)[0])


class SlateLosses:
    """Losses of n candidates in S slates, prepared so that judging another ranking is fast.

    Args:
        full: c at the last exit, float32 [n].
        offsets: where each slate begins, and n: int64 [S + 1].
    """

    def __init__(self, full: NDArray[np.float32], offsets: NDArray[np.int64]) -> None:
        self._full, self._offsets = full, offsets
        self._tops: dict[int, _Tops] = {}

    def of(self, loss: Loss, policy: NDArray[np.float32]) -> NDArray[np.float64]:
        """Returns each slate's loss, float64 [S]; nan if it has none. policy: c where it stopped each candidate, float32 [n]."""
        if loss.kind == "agreement":
            others = ((policy >= 0) != (self._full >= 0)).astype(np.float64)
            return np.add.reduceat(others, self._offsets[:-1]) / np.diff(self._offsets)
        if loss.kind == "rank-correlation":
            parts = [slice(begin, end) for begin, end in itertools.pairwise(self._offsets.tolist())]
            return np.array([_discordance(policy[part], self._full[part]) for part in parts])
        if loss.kind == "expected-ndcg":
            return np.maximum(0.0, 1 - self.by_probability.ndcg(policy, loss.k))  # rounding may take it below 0; nan stays
        if loss.k not in self._tops:
            self._tops[loss.k] = _Tops(self._offsets, loss.k, self._full)
        return self._tops[loss.k].lost(policy)

    @cached_property
    def by_probability(self) -> ByUser:
        """Candidates by slate, with full depth's probability as gain."""
        return ByUser(np.repeat(np.arange(len(self._offsets) - 1), np.diff(self._offsets)), probabilities(self._full))


def _discordance(policy: NDArray[np.float32], full: NDArray[np.float32]) -> float:
    order = np.sign(full[:, None] - full[None, :])
    pairs = np.count_nonzero(order)
    if not pairs:
        return math.nan
    agreement = (order * np.sign(policy[:, None] - policy[None, :])).sum() / pairs
    return float((1 - agreement) / 2)


class _Tops:
    """Full depth's first k of every slate with more than k candidates, for comparison with other rankings."""

    def __init__(self, offsets: NDArray[np.int64], k: int, reference: NDArray[np.float32]) -> None:
        sizes = np.diff(offsets)
        self._large = large = sizes > k
        self._k = k
        self._pairs = np.flatnonzero(np.repeat(large, sizes))
        self._sizes = sizes[large]
        self._starts = np.cumsum(self._sizes) - self._sizes
        self._slate = np.repeat(np.arange(len(self._sizes)) << 32, self._sizes)
        self._reference = self._first(reference)

    def lost(self, score: NDArray[np.float32]) -> NDArray[np.float64]:
        """Returns the share of each slate's first k that is lost, float64 [S], nan where it has at most k candidates."""
        overlap = np.full(len(self._large), np.nan)
        overlap[self._large] = np.add.reduceat((self._first(score) & self._reference).astype(np.int64), self._starts) / self._k
        return 1 - overlap

    def _first(self, score: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Whether each pair of a large slate is among its first k."""
        key = self._slate + descending(score[self._pairs])
        last = np.sort(key)[self._starts + self._k - 1]
        last = np.repeat(last, self._sizes)
        above, tied = key < last, key == last
        # Pairs that tie with the k-th fill the room that is left in the slate's order.
        room = self._k - np.add.reduceat(above.astype(np.int64), self._starts)
        ties = np.cumsum(tied)
        before = np.repeat((ties - tied)[self._starts], self._sizes)
        return np.asarray(above | (tied & (ties - before <= np.repeat(room, self._sizes))))
