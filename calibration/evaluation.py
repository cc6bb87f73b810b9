"""What a policy costs on a split, and what its ranking is expected to lose against full depth, by probabilities, not labels.

Labels are too noisy to choose by: on MovieLens 100k a user's NDCG@10 differs between two depths by 0.05 (standard deviation)
while the means differ by 0.001. The best of thousands of policies would be the one that the labels happened to favour. Full
depth's calibrated probability p is the mean of a label, so the loss can be averaged over labels: each pair counts as p of a like
and 1 - p of a dislike. This is our choice, and only for choosing: certificates and reports count real labels. A ranking that is
better than full depth's does not show; its loss is overstated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from rexit.calibration.metrics import LABEL_FREE, Judge, Metric
from rexit.calibration.traces import Traces
from rexit.data.ranking import descending
from rexit.upkeep.measure import Costs


@dataclass(frozen=True)
class Outcome:
    """What a way to stop costs and loses on a split.

    Attributes:
        cost_us: mean microseconds per slate, by the cost model.
        mean_layers: mean over candidates.
        drops: what each metric is expected to lose against full depth (see `Expectation`); more is worse.
    """

    cost_us: float
    mean_layers: float
    drops: tuple[float, ...]

    @property
    def drop(self) -> float:
        """The largest of `drops`."""
        return max(self.drops)


def at_exit(c: NDArray[np.float32], stops: NDArray[np.int64]) -> NDArray[np.float32]:
    """Returns each pair's c at its exit, float32 [n]. c: float32 [n, E]; stops: int64 [n]."""
    return np.take_along_axis(c, stops[:, None], axis=1)[:, 0]


class Evaluation:
    """A split under one set of maps, prepared so that judging another way to stop is fast.

    Args:
        traces: the split's.
        c: its calibrated log-odds, float32 [n, E].
        depths: layers of each exit.
        costs: what a slate costs.
        metrics: the metrics of `Outcome.drops`.
        exact: the float32 model's c at full depth, float32 [n], which losses are counted against; None: the variant's own.
    """

    def __init__(
        self,
        traces: Traces,
        c: NDArray[np.float32],
        depths: Sequence[int],
        costs: Costs,
        metrics: Sequence[Metric],
        exact: NDArray[np.float32] | None = None,
    ) -> None:
        self.traces, self.c, self.costs, self.metrics = traces, c, costs, tuple(metrics)
        self.full = np.ascontiguousarray(c[:, -1])
        """The variant's c at the last exit, as the runtime answers there."""
        self.has_reference = exact is not None
        reference = self.full if exact is None else exact
        self.judge = Judge(traces.users, traces.liked, traces.offsets, reference)
        """Judges by labels."""
        self._expectation = Expectation(traces, reference, self.judge)
        self._depths = np.array(depths)

    def score(self, stops: NDArray[np.int64]) -> NDArray[np.float32]:
        """Returns what a policy ranks by: each pair's c at the exit where it stops, float32 [n]."""
        return at_exit(self.c, stops)

    def mean_layers(self, stops: NDArray[np.int64]) -> float:
        return float(self._depths[stops].mean())

    def cost_us(self, stops: NDArray[np.int64]) -> float:
        return self.costs.mean(stops, self.traces.offsets)

    def outcome(self, stops: NDArray[np.int64]) -> Outcome:
        """Returns cost and expected drops. stops: the exit of each pair, int64 [n]."""
        score = self.score(stops)
        return Outcome(self.cost_us(stops), self.mean_layers(stops), self._expectation.drops(self.metrics, score))


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
