"""The options of a calibration: what a policy must keep, and the rules for the top of a slate that follow from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rexit.calibration import certify
from rexit.calibration.metrics import Metric
from rexit.calibration.traces import Traces
from rexit.devices import Device
from rexit.errors import InputError
from rexit.format.bundle import TopK
from rexit.format.candidates import Candidates
from rexit.upkeep.audit.betting import Tail

TOP_K_ERRORS = (0.01, 0.05, 0.1, 0.2, 0.4)
"""How often a candidate's c may move further than a top-k rule expects."""


def check_max_drop(drop: float) -> None:
    """Raises InputError for a drop that cannot be allowed."""
    if not 0 < drop < 0.5:
        raise InputError(f"max drop {drop}, expected more than 0 and less than 0.5")


@dataclass(frozen=True)
class Goal:
    """What a policy must keep.

    Attributes:
        metrics: none of them may drop by more than `max_drop` against full depth.
        max_drop: in each metric's own unit.
        confidence: that no metric drops by more.
        top_k: how many candidates of a slate users are shown, for the top-k rule; None: all.
        tail: what users who lose most may lose, under the same confidence; None: it is not tested.
        recall: the share of relevant candidates that a floor keeps, likewise; None: no floor is sought.
    """

    metrics: tuple[Metric, ...]
    max_drop: float = 0.01
    confidence: float = 0.95
    top_k: int | None = None
    tail: Tail | None = None
    recall: float | None = None

    @property
    def error(self) -> float:
        """1 minus the confidence."""
        return 1 - self.confidence

    @property
    def places(self) -> int | None:
        """The most places of a slate that a metric or `top_k` counts; None: there is none that counts some."""
        return max((k for k in (self.top_k, *(metric.k for metric in self.metrics)) if k), default=None)

    def check(self) -> None:
        """Raises InputError for numbers that cannot work."""
        if not self.metrics:
            raise InputError("no metric, expected at least one")
        check_max_drop(self.max_drop)
        if not 0.5 <= self.confidence < 1:
            raise InputError(f"confidence {self.confidence}, expected 0.5 to below 1")
        if self.recall is not None and not 0.5 <= self.recall < 1:
            raise InputError(f"recall {self.recall}, expected 0.5 to below 1")
        if self.top_k is not None and self.top_k < 1:
            raise InputError(f"top k {self.top_k}, expected at least 1")
        if (tail := self.tail) is not None:
            if not 0 < tail.share < 1:
                raise InputError(f"tail: a share of {tail.share:g} of the users, expected more than 0 and less than 1")
            if not 0 <= tail.loss < 1:
                raise InputError(f"tail: a loss of {tail.loss:g}, expected 0 to below 1")
            if all(metric.bounds is None for metric in self.metrics):
                raise InputError("tail: no metric has a value per user, expected one such as ndcg@10")

    def check_sizes(self, largest: int) -> None:
        """Raises InputError if no slate has a place to contest. largest: candidates of the largest slate."""
        places = {f"metric {metric.name}": metric.k for metric in self.metrics if metric.kind == "top-k-overlap"}
        for name, k in (places | {f"top k {self.top_k}": self.top_k or 0}).items():
            if largest <= k:
                raise InputError(f"{name}: the largest slate has {largest} candidates, expected more than {k}")

    def check_users(self, users: int, noun: str) -> None:
        """Raises InputError if a metric of losses from 0 cannot be certified, not even if nobody loses anything.

        users: how many certify. noun: what they are called.
        """
        bounds = [metric.bounds for metric in self.metrics if metric.bounds is not None and metric.bounds[0] == 0]
        needed = max((certify.users_needed(np.zeros(1), pair, self.max_drop, self.error) for pair in bounds), default=0)
        if users < needed:
            raise InputError(
                f"{users} {noun} certify, expected at least {needed:,.0f}: with fewer a drop of {self.max_drop:g} cannot be "
                f"certified with {100 * self.confidence:g} % confidence, even if nobody loses; give more {noun} or allow more"
            )


def top_k_rules(c: NDArray[np.float32], traces: Traces, goal: Goal) -> list[TopK | None]:
    """Returns the top-k rules to search among: None, and for each error rate the bounds that c leaves that often.

    Args:
        c: calibrated log-odds, float32 [n, E].
        traces: the same pairs.
        goal: its `top_k` is the rules' k; None: no rules.
    """
    if goal.top_k is None:
        return [None]
    moves = c[:, -1:] - c[:, :-1]
    rules: list[TopK | None] = [None]
    for rate in TOP_K_ERRORS:  # half of it on each side
        low, high = np.quantile(moves, (rate / 2, 1 - rate / 2), axis=0).astype(np.float32)
        rise, fall = np.maximum(high, 0).tolist(), np.maximum(-low, 0).tolist()
        rules += [TopK(goal.top_k, ordered, tuple(rise), tuple(fall)) for ordered in (True, False)]
    return rules


METRICS = ("ndcg@10", "user-auc")
"""What a policy must keep by default, since a recommender ranks one user's slate."""


@dataclass(frozen=True)
class CalibrationOptions:
    """The options of a calibration; `rexit calibrate --help` has most of them.

    Attributes:
        metrics: names of the metrics that may not drop by more than `max_drop` against full depth; None: METRICS, without labels
            `expected-ndcg@10`.
        max_drop: the allowed drop of each metric, in its own unit.
        confidence: that no metric drops by more; 0.5 to below 1.
        top_k: how many candidates of a slate users are shown; None: all.
        tail: at most that share of users may lose more, SHARE:LOSS; None: users who lose most are not tested.
        recall: the share of its relevant candidates that a user keeps on average above a floor; None: no floor is sought.
        labels: whether a catalog's labels count; False: as if there were none, as in a file of slates without them.
        slate: candidates per slate; None: SIZE, all of retrieved candidates, or for a file of slates the size of its largest.
        max_slates: the most slates of each split, of whole users that are evenly spaced; 0: all.
        test_slates: the most of the test split, where it is fewer; 0: as `max_slates`, or as recorded with `from_traces`.
        timed_slates: number of slates to time.
        repeats: timings of each, whose median counts.
        device, threads: as for `rexit.open`.
        from_traces: decide on what the last calibration recorded, without running the model.
        measure_costs: with `from_traces`, measure costs again, and time the policy.
        also: other candidates, on which the policy is judged for information; None: none.
        negative_rate: the share of the population's negatives in the labels, more than 0 to 1; None: as `rexit index` sampled.
    """

    metrics: Sequence[str] | None = None
    max_drop: float = 0.01
    confidence: float = 0.95
    top_k: int | None = None
    tail: str | None = None
    recall: float | None = None
    labels: bool = True
    slate: int | None = None
    max_slates: int = 5000
    test_slates: int = 0
    timed_slates: int = 16
    repeats: int = 5
    device: Device | None = None
    threads: int = 0
    from_traces: bool = False
    measure_costs: bool = False
    also: Candidates | None = None
    negative_rate: float | None = None
