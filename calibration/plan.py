"""How many users certify what: a forecast from the choosing users' losses, before anybody certifies.

1. For each policy that would be tested, and for a few limits around the goal's, the number of users with a value that would do in
   4 of 5 calibrations (`certify.users_needed`).
2. The choosing users are few, so the number is a range: by their losses, each 1.28 standard errors of the mean lower, and higher.
   Four in five such ranges hold the number that all users would give.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rexit.audit.betting import exceeds
from rexit.calibration import certify
from rexit.calibration.candidates import Candidate, score_of
from rexit.calibration.choose.evaluate import Evaluation
from rexit.calibration.goal import Goal
from rexit.calibration.metrics import Metric

LIMITS = (0.5, 1.0, 2.0, 5.0)
"""Multiples of the allowed drop."""

ERRORS = 1.28
"""Standard errors from the mean to either end of an 80 % interval."""

Range = tuple[float, float]
"""The fewest and the most users; infinite: no number is known to do."""


@dataclass(frozen=True)
class Needed:
    """How many users would certify a policy.

    Attributes:
        budget: the expected drop that the search allowed.
        saving: share of full depth's cost.
        users: for each limit of a mean drop. A tail, which the goal has or not, is the same for all.
    """

    budget: float
    saving: float
    users: Mapping[float, Range]


def plan(candidates: Sequence[Candidate], choosing: Evaluation, goal: Goal, full_us: float) -> tuple[Needed, ...]:
    """Returns the forecast for each policy; empty if no metric has a value per user."""
    metrics = [metric for metric in goal.metrics if metric.bounds is not None]
    limits = [limit for share in LIMITS if (limit := share * goal.max_drop) < 0.5]
    rows = []
    for candidate in candidates if metrics else ():
        score = score_of(choosing, candidate.policy)
        losses = {metric: choosing.judge.losses(metric, score) for metric in metrics}
        users = {limit: _most([_users(losses[metric], metric, limit, goal) for metric in metrics]) for limit in limits}
        rows.append(Needed(candidate.budget, 1 - candidate.outcome.cost_us / full_us, users))
    return tuple(rows)


def _users(losses: NDArray[np.float64], metric: Metric, limit: float, goal: Goal) -> Range:
    """What one metric needs, its tail included."""
    assert metric.bounds is not None
    if len(losses) < 2:
        return 0, math.inf
    error = ERRORS * float(losses.std(ddof=1)) / math.sqrt(len(losses))
    low, high = (
        certify.users_needed((losses + shift).clip(*metric.bounds), metric.bounds, limit, goal.error) for shift in (-error, error)
    )
    if goal.tail is None:
        return low, high
    count, n = int(np.count_nonzero(exceeds(losses, goal.tail.loss))), len(losses)
    ends = (certify.tail_users_needed(q, goal.tail.share, goal.error) for q in certify.share_interval(count, n))
    return _most([(low, high), (next(ends), next(ends))])


def _most(ranges: Sequence[Range]) -> Range:
    return max(low for low, _ in ranges), max(high for _, high in ranges)


def words(users: Sequence[float | None]) -> str:
    """Returns a range with the digits that it has: "300 to 2,000", "at least 300". None stands for infinite."""
    low, high = (math.inf if end is None else float(f"{end:.1g}") for end in users)
    if math.isinf(low):
        return "no number"
    return f"at least {low:,.0f}" if math.isinf(high) else f"about {low:,.0f}" if low == high else f"{low:,.0f} to {high:,.0f}"
