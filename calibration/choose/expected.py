"""What a ranking is expected to lose, with full depth's probabilities instead of labels.

Labels are too noisy to choose by: on MovieLens 100k a user's NDCG@10 differs between two depths by 0.05 (standard deviation)
while the means differ by 0.001. The best of thousands of policies would be the one that the labels happened to favour. Full
depth's calibrated probability p is the mean of a label, so the loss can be averaged over labels: each pair counts as p of a like
and 1 - p of a dislike. This is our choice, and only for choosing: certificates and reports count real labels. A ranking that is
better than full depth's does not show; its loss is overstated.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from rexit.calibration.metrics import LABEL_FREE, Judge, Metric
from rexit.calibration.record.traces import Traces
from rexit.ranking import descending


class Expectation:
    """Expected losses on a split, prepared so that judging another ranking is fast.

    Args:
        traces: the split's.
        full: full depth's c, float32 [n].
        judge: the split's, for metrics that need no labels.
    """

    def __init__(self, traces: Traces, full: NDArray[np.float32], judge: Judge) -> None:
        self._judge = judge
        self._p = expit(full.astype(np.float64))
        self._users = _Groups(traces.users)
        self._all = _Groups(np.zeros(len(full), np.int64))
        self._full = full
        self._values: dict[Metric, float] = {}

    def drops(self, metrics: Sequence[Metric], score: NDArray[np.float32]) -> tuple[float, ...]:
        """Returns how much a ranking is expected to lose against full depth, in each metric's unit. Hardly ever below 0.

        `agreement` and `top-k-overlap` need no labels and are as measured. score: float32 [n].
        """
        ordered = self._users.ordered(score, self._p)  # for all metrics: sorting is most of the work
        return tuple(self._drop(metric, score, ordered) for metric in metrics)

    def _drop(self, metric: Metric, score: NDArray[np.float32], ordered: NDArray[np.float64]) -> float:
        if metric.kind in LABEL_FREE:
            return self._judge.drop(metric, score)
        if metric not in self._values:
            self._values[metric] = self._value(metric, self._full, self._users.ordered(self._full, self._p))
        drop = self._values[metric] - self._value(metric, score, ordered)
        return drop if metric.higher_is_better else -drop

    def _value(self, metric: Metric, score: NDArray[np.float32], ordered: NDArray[np.float64]) -> float:
        if metric.kind == "logloss":
            c = score.astype(np.float64)
            return float(np.mean(np.logaddexp(0.0, c) - c * self._p))
        if metric.kind == "ndcg":
            return self._users.ndcg(ordered, metric.k)
        if metric.kind == "user-auc":
            return self._users.auc(ordered)
        return self._all.auc(self._all.ordered(score, self._p))


class _Groups:
    """Pairs in groups, each ranked by itself. users: int64 [n], in any order: a user's slates may lie apart."""

    def __init__(self, users: NDArray[np.int64]) -> None:
        numbers = np.unique(users, return_inverse=True)[1]
        self._sizes = np.bincount(numbers)
        self._starts = np.cumsum(self._sizes) - self._sizes
        self._key = numbers << 32
        self._place = np.arange(len(users)) - np.repeat(self._starts, self._sizes)

    def ordered(self, score: NDArray[np.float32], p: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns p in the order of the score, the highest first, group by group. Ties, which are rare, keep their order."""
        return p[np.argsort(self._key + descending(score), kind="stable")]

    def ndcg(self, p: NDArray[np.float64], k: int) -> float:
        """Returns the mean over groups of the expected gain of p in its order, divided by the largest gain of that many likes."""
        discount = np.where(self._place < k, 1 / np.log2(self._place + 2.0), 0.0)
        largest = np.r_[0.0, np.cumsum(1 / np.log2(np.arange(k) + 2.0))]
        best = np.interp(np.add.reduceat(p, self._starts), np.arange(k + 1), largest)
        return float(np.mean(np.add.reduceat(discount * p, self._starts) / best))

    def auc(self, p: NDArray[np.float64]) -> float:
        """Returns the chance that a like is above a dislike in the order of p: mean over groups of more than one pair."""
        before = np.cumsum(p) - p
        before -= np.repeat(before[self._starts], self._sizes)
        above = np.add.reduceat(before * (1 - p), self._starts)
        likes, squares = np.add.reduceat(p, self._starts), np.add.reduceat(p * p, self._starts)
        pairs = likes * (self._sizes - likes) - (likes - squares)  # p_i (1 - p_j) over i != j
        several = self._sizes > 1
        return float(np.mean(above[several] / pairs[several]))
