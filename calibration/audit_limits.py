"""The limit that a service watches: what the certifying users lose without labels under the policy.

1. The loss: a certified metric that needs no labels, with the limit that was promised if it was promised against the variant's
   own full depth, which a service compares with. Without such a metric, a replacement for the first
   metric: top-k overlap for NDCG@K if at least half of the certifying users have a slate of more than K, else rank correlation
   if half of them have one of two or more, else agreement, which every slate has.
2. A tail that was certified is watched, too: an upper bound of the share of users whose first slate loses more.
3. A limit that was not promised is an upper bound of the expected loss, by the same bets as the certificate's. The policy was
   chosen among those tested, so they share the level.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rexit.calibration import certify
from rexit.calibration.evaluation import Evaluation
from rexit.calibration.goal import Goal
from rexit.calibration.metrics import LABEL_FREE, Metric
from rexit.format.bundle import Policy
from rexit.upkeep.audit import AuditLimits
from rexit.upkeep.audit.betting import exceeds
from rexit.upkeep.audit.losses import Loss, SlateLosses

_STEPS = 10_000
"""Limits are rounded to four digits."""


def limits(policy: Policy, certifying: Evaluation, goal: Goal, level: float) -> AuditLimits:
    """Returns what to watch.

    Args:
        policy: the policy to write.
        certifying: the users who certified.
        goal: what was certified.
        level: the chance that an upper bound is too low.
    """
    metric, loss = _loss(certifying, goal.metrics)
    promised = metric.kind in LABEL_FREE and not certifying.has_reference  # a service compares with its own full depth
    users, values = slate_losses(loss, certifying, policy)
    counts = np.bincount(users)
    losses = (np.bincount(users, values) / np.maximum(counts, 1))[counts > 0]
    limit = goal.max_drop if promised else upper_bound(losses, level)
    tail = None
    if goal.tail is not None:
        over = exceeds(values[np.unique(users, return_index=True)[1]], goal.tail.loss)  # a slate of each user, as in an audit
        share = certify.share_interval(int(np.count_nonzero(over)), len(over), 2 * level)[1]
        tail = replace(goal.tail, share=share) if share < 1 else None
    return AuditLimits(loss.name, metric.name, limit, float(losses.mean()), promised, tail)


def slate_losses(loss: Loss, evaluation: Evaluation, policy: Policy) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Returns the user, int64, and the loss, float64, of each slate that has one."""
    traces = evaluation.traces
    score = evaluation.score(policy.stops(traces.log_odds, traces.offsets))
    values = SlateLosses(evaluation.full, traces.offsets).of(loss, score)
    valued = np.isfinite(values)
    return traces.users[traces.offsets[:-1]][valued], values[valued]


def upper_bound(losses: NDArray[np.float64], level: float) -> float:
    """Returns an upper bound of the expected loss: the least limit that losses from 0 to 1 certify at `level`, rounded up."""
    low, high = 0.0, 1.0 - 1 / _STEPS
    while high - low > 0.1 / _STEPS:
        middle = (low + high) / 2
        if certify.p_value(losses, (0.0, 1.0), middle, level) <= level:
            high = middle
        else:
            low = middle
    return math.ceil(high * _STEPS) / _STEPS


def _loss(certifying: Evaluation, metrics: Sequence[Metric]) -> tuple[Metric, Loss]:
    """The certified metric, and the loss that is watched for it."""
    label_free = next((metric for metric in metrics if metric.kind in LABEL_FREE), None)
    if label_free is not None:
        return label_free, label_free
    metric, traces = metrics[0], certifying.traces

    def usual(size: int) -> bool:
        """Whether half of the users have a slate of more than so many candidates."""
        users = traces.users[traces.offsets[:-1]][np.diff(traces.offsets) > size]
        return 2 * len(np.unique(users)) >= traces.user_count

    if metric.kind == "ndcg" and usual(metric.k):
        return metric, Loss("top-k-overlap", metric.k)
    return metric, Loss("rank-correlation" if usual(1) else "agreement")
