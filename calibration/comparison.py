"""Ways to stop, compared on the test split: what each costs and loses, and how a policy compares with fixed depths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rexit.calibration.choose.evaluate import Evaluation

Interval = tuple[float, float, float]
"""A value, and the ends of its 95 % interval."""


@dataclass(frozen=True)
class Row:
    """A way to stop, on the test split.

    Attributes:
        name: what tables call it.
        mean_layers: mean over candidates.
        cost_us: microseconds of the mean slate, by the cost model.
        values: each metric's value, by name.
        drops: each metric's drop against full depth, by name; above 0 if something is lost.
    """

    name: str
    mean_layers: float
    cost_us: float
    values: Mapping[str, float]
    drops: Mapping[str, Interval]


@dataclass(frozen=True)
class Gain:
    """How a policy compares with stopping every candidate at one exit, on the test split.

    Attributes:
        exit: the fixed depth's exit.
        expected_drop: what that depth is expected to lose against full depth, on the choosing users.
        differences: by metric's name, policy minus fixed depth; above 0 if the policy is better.
    """

    exit: int
    expected_drop: float
    differences: Mapping[str, Interval]


class TestSplit:
    """The test split, ready to compare ways to stop. A way is the exit of each pair, int64 [n]."""

    __test__ = False  # no test of pytest's

    def __init__(self, evaluation: Evaluation) -> None:
        self._evaluation = evaluation

    def full_row(self, name: str) -> Row:
        """Returns the table's row for the full model."""
        full = self._evaluation.full
        return self._row(name, np.full(len(full), self._evaluation.c.shape[1] - 1), full)

    def row(self, name: str, stops: NDArray[np.int64]) -> Row:
        """Returns the table's row for a way to stop."""
        return self._row(name, stops, self._evaluation.score(stops))

    def _row(self, name: str, stops: NDArray[np.int64], score: NDArray[np.float32]) -> Row:
        evaluation = self._evaluation
        judge = evaluation.judge
        ends = judge.intervals(evaluation.metrics, score)
        return Row(
            name=name,
            mean_layers=evaluation.mean_layers(stops),
            cost_us=evaluation.cost_us(stops),
            values={metric.name: judge.value(metric, score) for metric in evaluation.metrics},
            drops={metric.name: (judge.drop(metric, score), *ends[metric]) for metric in evaluation.metrics},
        )

    def gains(self, stops: NDArray[np.int64], choosing: Evaluation) -> tuple[Gain, ...]:
        """Returns how a way to stop compares with each fixed depth but the last. choosing: of the users who choose."""
        score = self._evaluation.score(stops)
        return tuple(self._gain(k, score, choosing) for k in range(self._evaluation.c.shape[1] - 1))

    def _gain(self, k: int, score: NDArray[np.float32], choosing: Evaluation) -> Gain:
        evaluation, fixed = self._evaluation, np.ascontiguousarray(self._evaluation.c[:, k])
        judge = evaluation.judge
        ends = judge.intervals(evaluation.metrics, score, other=fixed)
        differences = {metric.name: (-judge.drop(metric, score, fixed), -high, -low) for metric, (low, high) in ends.items()}
        return Gain(k, choosing.outcome(np.full(len(choosing.c), k)).drop, differences)
