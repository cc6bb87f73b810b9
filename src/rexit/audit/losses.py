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

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rexit.errors import InputError
from rexit.ranking import ByGain, probabilities

CHOICES = "top-k-overlap@K or expected-ndcg@K with K from 1, agreement or rank-correlation"


@dataclass(frozen=True)
class Loss:
    """A loss without labels. k: 0 for those without a K."""

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
        if self.kind == "agreement":
            return float(np.mean((policy >= 0) != (full >= 0)))
        if self.kind == "rank-correlation":
            return _discordance(policy, full)
        if self.kind == "expected-ndcg":
            loss = 1 - float(ByGain(np.zeros(len(full), np.int64), probabilities(full)).ndcg(policy, self.k)[0])
            return 0.0 if -1e-9 < loss < 0 else loss  # rounding; nan stays
        if len(full) <= self.k:
            return math.nan
        return 1 - len(np.intersect1d(_first(policy, self.k), _first(full, self.k))) / self.k


def _first(score: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Places of the k best. Ties go to the first, as in the runtime's top-k."""
    return np.argsort(-score, kind="stable")[:k]


def _discordance(policy: NDArray[np.float32], full: NDArray[np.float32]) -> float:
    order = np.sign(full[:, None] - full[None, :])
    pairs = np.count_nonzero(order)
    if not pairs:
        return math.nan
    agreement = (order * np.sign(policy[:, None] - policy[None, :])).sum() / pairs
    return float((1 - agreement) / 2)
