"""What a policy costs on a split, and what its ranking loses against full depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rexit.calibration.choose.expected import Expectation
from rexit.calibration.metrics import Judge, Metric
from rexit.calibration.record.traces import Traces
from rexit.measure import Costs


@dataclass(frozen=True)
class Outcome:
    """What a way to stop costs and loses on a split.

    Attributes:
        cost_us: mean microseconds per slate, by the cost model.
        mean_layers: mean over candidates.
        drops: what each metric is expected to lose against full depth (see `expected`); more is worse.
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
    """

    def __init__(
        self,
        traces: Traces,
        c: NDArray[np.float32],
        depths: Sequence[int],
        costs: Costs,
        metrics: Sequence[Metric],
    ) -> None:
        self.traces, self.c, self.costs, self.metrics = traces, c, costs, tuple(metrics)
        self.full = np.ascontiguousarray(c[:, -1])
        """Full depth, which losses are counted against: c at the last exit, as the runtime answers there."""
        self.judge = Judge(traces.users, traces.liked, traces.offsets, self.full)
        """Judges by labels."""
        self._expectation = Expectation(traces, self.full, self.judge)
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
