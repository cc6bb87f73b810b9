"""Ways to stop, compared on the test split: what each costs and loses, and how a policy compares with fixed depths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rexit.baselines import Scores
from rexit.bundle import Policy
from rexit.calibration.choose.evaluate import Evaluation
from rexit.calibration.metrics import LABEL_FREE, Judge, Metric
from rexit.calibration.record.traces import Traces

Interval = tuple[float, float, float]
"""A value, and the ends of its 95 % interval."""


@dataclass(frozen=True)
class Row:
    """A way to stop, on the test split.

    Attributes:
        name: its name in tables.
        mean_layers: mean over candidates.
        cost_us: mean microseconds per slate, by the cost model.
        values: each metric's value, by name.
        drops: each metric's drop against full depth, by name; above 0 if something is lost.
    """

    name: str
    mean_layers: float
    cost_us: float
    values: Mapping[str, float]
    drops: Mapping[str, Interval]


@dataclass(frozen=True)
class Baseline:
    """A ranking of the test split that no exit makes, see `rexit.baselines`.

    Attributes:
        name: its name in tables.
        values, drops: as of a `Row`; for metrics that compare a ranking with the labels.
    """

    name: str
    values: Mapping[str, float]
    drops: Mapping[str, Interval]


def baseline_rows(scores: Scores, test: Traces, full: NDArray[np.float32], metrics: Sequence[Metric]) -> tuple[Baseline, ...]:
    """Returns the baselines of the test split. scores: each one's, of its pairs. full: c at full depth, float32 [n]."""
    judge = Judge(test.users, test.liked, test.offsets, full)
    ranking = [metric for metric in metrics if metric.kind not in (*LABEL_FREE, "logloss")]
    rows = []
    for name, exact in scores.items():
        score = exact.astype(np.float32)
        ends = judge.intervals(ranking, score)
        values = {metric.name: judge.value(metric, score) for metric in ranking}
        drops = {metric.name: (judge.drop(metric, score), *ends[metric]) for metric in ranking}
        rows.append(Baseline(name, values, drops))
    return tuple(rows)


@dataclass(frozen=True)
class Gain:
    """How a policy compares with stopping every candidate at one exit, on the test split.

    Attributes:
        exit: the fixed depth's exit.
        expected_drop: what that depth is expected to lose against full depth, for the choosing users.
        differences: by metric's name, policy minus fixed depth; above 0 if the policy is better.
    """

    exit: int
    expected_drop: float
    differences: Mapping[str, Interval]


class Comparison:
    """Compares ways to stop on the test split. A way is the exit of each pair, int64 [n].

    Args:
        evaluation: the test split, under the chosen maps.
    """

    def __init__(self, evaluation: Evaluation) -> None:
        self.evaluation = evaluation

    def fixed_row(self, name: str, exit_: int, c: NDArray[np.float32] | None = None) -> Row:
        """Returns the table's row for stopping every candidate at one exit. c: by another map than the chosen, float32 [n]."""
        return self._row(name, self._fixed(exit_), np.ascontiguousarray(self.evaluation.c[:, exit_] if c is None else c))

    def policy_row(self, name: str, policy: Policy) -> Row:
        """Returns the table's row for a policy."""
        stops = self._stops(policy)
        return self._row(name, stops, self.evaluation.score(stops))

    def gains(self, policy: Policy, choosing: Evaluation) -> tuple[Gain, ...]:
        """Returns how a policy compares with each fixed depth but the last. choosing: the users who choose."""
        score = self.evaluation.score(self._stops(policy))
        return tuple(self._gain(k, score, choosing) for k in range(self.evaluation.c.shape[1] - 1))

    def _fixed(self, exit_: int) -> NDArray[np.int64]:
        return np.full(len(self.evaluation.c), exit_)

    def _stops(self, policy: Policy) -> NDArray[np.int64]:
        traces = self.evaluation.traces
        return policy.stops(traces.log_odds, traces.offsets)

    def _row(self, name: str, stops: NDArray[np.int64], score: NDArray[np.float32]) -> Row:
        evaluation, judge = self.evaluation, self.evaluation.judge
        ends = judge.intervals(evaluation.metrics, score)
        return Row(
            name=name,
            mean_layers=evaluation.mean_layers(stops),
            cost_us=evaluation.cost_us(stops),
            values={metric.name: judge.value(metric, score) for metric in evaluation.metrics},
            drops={metric.name: (judge.drop(metric, score), *ends[metric]) for metric in evaluation.metrics},
        )

    def _gain(self, k: int, score: NDArray[np.float32], choosing: Evaluation) -> Gain:
        judge, fixed = self.evaluation.judge, np.ascontiguousarray(self.evaluation.c[:, k])
        ends = judge.intervals(self.evaluation.metrics, score, other=fixed)
        differences = {metric.name: (-judge.drop(metric, score, fixed), -high, -low) for metric, (low, high) in ends.items()}
        return Gain(k, choosing.outcome(np.full(len(choosing.c), k)).drop, differences)
