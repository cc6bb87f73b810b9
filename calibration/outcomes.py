"""Labels that arrive later, joined to audited slates: what the policy loses by the metrics that need labels.

1. An outcome says whether a user liked an item. It belongs to the user's audited slates that have the item.
2. Candidates without an outcome are left out. Where outcomes are likes alone, as clicks are, those of users who have an outcome
   count as not liked.
3. Metrics without labels (`agreement`, `top-k-overlap`) are of whole slates, as their limits are: of all audited slates, with or
   without an outcome.
4. A certified metric with a value per user feeds the test of `rexit.audit.betting`, a user at a time in the order of the log,
   with the limit that was promised.

Users react to what the policy showed them. An item that full depth alone would have shown has no outcome, so losses come out
smaller than they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rexit.audit.betting import LEVEL, Capital
from rexit.audit.log import AuditedSlate
from rexit.bundle import ExitPolicy, Id, Policy
from rexit.calibration.metrics import LABEL_FREE, Judge, Metric, log_losses
from rexit.calibration.reliability import Reliability, Split
from rexit.errors import InputError

Outcomes = Mapping[tuple[Id, Id], bool]
"""Whether a user liked an item, by the ids of both."""


@dataclass(frozen=True)
class LabelledMetric:
    """A metric of the answers that have outcomes.

    Attributes:
        name: of the metric.
        users: that have a value. Metrics without labels may have more than have an outcome.
        policy, full: values of the policy and of full depth.
        drop: what is lost.
        limit: that was promised; None: none.
        capital: of the bets against the limit; None without one.
        alarm: whether the limit no longer holds.
    """

    name: str
    users: int
    policy: float
    full: float
    drop: float
    limit: float | None = None
    capital: float | None = None
    alarm: bool = False


@dataclass(frozen=True)
class Probabilities:
    """How right the probabilities of an answer are.

    Attributes:
        name: `policy` or `full depth`.
        log_loss: in nats.
        reliability: with intervals over users.
    """

    name: str
    log_loss: float
    reliability: Reliability


@dataclass(frozen=True)
class Labelled:
    """What outcomes say of audited slates.

    Attributes:
        outcomes: how many were given, and how many belong to audited slates.
        pairs: candidates with a label.
        users: users with a labelled candidate.
        metrics: by labels.
        probabilities: of the policy and of full depth.
    """

    outcomes: tuple[int, int]
    pairs: int
    users: int
    metrics: tuple[LabelledMetric, ...]
    probabilities: tuple[Probabilities, ...]

    def to_json(self) -> dict[str, Any]:
        """Returns plain values."""
        return asdict(self)


def label(
    slates: Sequence[AuditedSlate],
    outcomes: Outcomes,
    likes_alone: bool,
    metrics: Sequence[Metric],
    limits: Mapping[str, float],
    full_head: ExitPolicy,
    prior_shift: float = 0.0,
) -> Labelled:
    """Returns what outcomes say of audited slates.

    Args:
        slates: in the order of the log, of one rule.
        outcomes: by user and item.
        likes_alone: other candidates of a user who has an outcome count as not liked.
        metrics: to compute.
        limits: of certified metrics, by name.
        full_head: the last head's own map.
        prior_shift: of the policy: outcomes are of the world.

    Raises:
        InputError: No outcome belongs to an audited slate, or all labels are the same.
    """
    reacted = {user for user, _ in outcomes}
    numbers: dict[Id, int] = {}
    users: list[int] = []
    liked: list[bool] = []
    policy: list[float] = []
    full: list[float] = []
    sizes: list[int] = []
    used: set[tuple[Id, Id]] = set()
    for slate in slates:
        before = len(liked)
        for item, by_policy, by_full in zip(slate.items, slate.policy, slate.full(full_head).tolist(), strict=True):
            verdict = outcomes.get((slate.user, item))
            if verdict is not None:
                used.add((slate.user, item))
            elif not (likes_alone and slate.user in reacted):
                continue
            users.append(numbers.setdefault(slate.user, len(numbers)))
            liked.append(bool(verdict))
            policy.append(by_policy)
            full.append(by_full)
        if len(liked) > before:
            sizes.append(len(liked) - before)
    if not used:
        raise InputError(f"none of {len(outcomes)} outcomes belongs to an audited slate, expected users and items of the log")
    labels = np.array(liked, np.bool_)
    if labels.all() or not labels.any():
        kind = "liked" if labels[0] else "not liked"
        raise InputError(f"all {len(labels)} labelled candidates are {kind}, expected both kinds")
    score, reference = np.array(policy, np.float32), np.array(full, np.float32)
    offsets = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
    numbered = np.array(users, np.int64)
    labelled = Judge(numbered, labels, offsets, reference), score
    whole = _whole(slates, full_head)
    judged = [(*(whole if metric.kind in LABEL_FREE else labelled), metric) for metric in metrics]
    return Labelled(
        outcomes=(len(outcomes), len(used)),
        pairs=len(labels),
        users=len(numbers),
        metrics=tuple(
            _metric(judge, metric, c, limits.get(metric.name)) for judge, c, metric in judged if _has_value(judge, metric)
        ),
        probabilities=tuple(
            _probabilities(name, c, labels, numbered, prior_shift) for name, c in (("policy", score), ("full depth", reference))
        ),
    )


def _whole(slates: Sequence[AuditedSlate], full_head: ExitPolicy) -> tuple[Judge, NDArray[np.float32]]:
    """Returns a judge of all candidates, for metrics without labels, and the policy's c of each, float32 [n]."""
    sizes = [len(slate.items) for slate in slates]
    numbers: dict[Id, int] = {}
    users = np.repeat([numbers.setdefault(slate.user, len(numbers)) for slate in slates], sizes)
    offsets = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
    full = np.concatenate([slate.full(full_head) for slate in slates])
    score = np.concatenate([np.array(slate.policy, np.float32) for slate in slates])
    return Judge(users, np.zeros(len(users), np.bool_), offsets, full), score


def _has_value(judge: Judge, metric: Metric) -> bool:
    try:
        judge.full(metric)
    except InputError:  # no user with both labels, or no slate of more than K
        return False
    return True


def _metric(judge: Judge, metric: Metric, score: NDArray[np.float32], limit: float | None) -> LabelledMetric:
    value, full, drop = judge.value(metric, score), judge.full(metric), judge.drop(metric, score)
    users = judge.user_count(metric)
    if limit is None or metric.bounds is None:
        return LabelledMetric(metric.name, users, value, full, drop)
    low, high = metric.bounds
    capital = Capital((limit - low) / (high - low), LEVEL)
    for loss in judge.losses(metric, score).tolist():
        capital.add(min(1.0, max(0.0, (loss - low) / (high - low))))  # a metric's last bit may be out
    return LabelledMetric(metric.name, users, value, full, drop, limit, capital.value, capital.alarm_at is not None)


def _probabilities(
    name: str, c: NDArray[np.float32], liked: NDArray[np.bool_], users: NDArray[np.int64], prior_shift: float
) -> Probabilities:
    p = Policy((ExitPolicy(),), 1, "", prior_shift=prior_shift).probability(c)
    log_loss = float(log_losses(c + np.float32(prior_shift), liked).mean())
    return Probabilities(name, log_loss, Split(liked, users).reliability("answers", name, p))
