"""Labels that arrive later, joined to audited slates: what the policy loses by the metrics that need labels.

1. An outcome says whether a user liked an item. It labels that item in the user's audited slates.
2. Candidates without an outcome are left out. Where outcomes are likes alone, as clicks are, they count as not liked if their
   user has an outcome.
3. Metrics without labels (`agreement`, `top-k-overlap`) are over whole slates, as their limits are, whether a slate has outcomes
   or not.
4. Of a certified tail, "at most a share of the users loses more than so much", each user's yes or no is bet on in the same way;
   mean and tail then share the level.
5. A certified metric with a value per user feeds the test of `rexit.audit.betting`: one user at a time in the order of the log,
   against the limit that was promised.

Users react to what the policy showed them. An item that only full depth would have shown has no outcome, so losses come out
smaller than they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rexit.audit.betting import LossTest, Tail
from rexit.audit.log import AuditedSlate
from rexit.bundle import ExitPolicy, Id, Policy
from rexit.calibration.metrics import LABEL_FREE, Judge, Metric, log_losses
from rexit.calibration.probabilities.reliability import Reliability, Split
from rexit.errors import InputError

Outcomes = Mapping[tuple[Id, Id], bool]
"""Whether a user liked an item, by the ids of both."""


@dataclass(frozen=True)
class LabelledMetric:
    """A metric of the audited answers.

    Attributes:
        name: name of the metric.
        users: how many users have a value. For metrics without labels these may be more than have an outcome.
        policy, full: values of the policy and of full depth.
        drop: what the policy loses.
        limit: the drop that was promised at most; None: none was.
        capital: What the bets against the limit have made of 1; None without a limit.
        alarm: whether the limit no longer holds, or the tail's.
        tail: the share of the users who lose more than the certified tail allows a share of, and what bets have made of 1; None
            without one.
    """

    name: str
    users: int
    policy: float
    full: float
    drop: float
    limit: float | None = None
    capital: float | None = None
    alarm: bool = False
    tail: tuple[float, float] | None = None


@dataclass(frozen=True)
class Probabilities:
    """How right an answer's probabilities are.

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
    """What outcomes say about audited slates.

    Attributes:
        outcomes: the number of outcomes, and how many of them label a candidate.
        pairs: candidates with a label.
        users: users with a labelled candidate.
        metrics: those that have a value.
        probabilities: the policy's and full depth's.
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
    prior_shift: float = 0.0,
    tail: Tail | None = None,
) -> Labelled:
    """Returns what outcomes say about audited slates.

    Args:
        slates: in the order of the log, all answered by one rule.
        outcomes: by user and item.
        likes_alone: the other candidates of a user who has an outcome count as not liked.
        metrics: the metrics to compute.
        limits: the promised limits of certified metrics, by name.
        prior_shift: the policy's, since outcomes are not sampled.
        tail: the promised tail of metrics with a limit.

    Raises:
        InputError: No outcome belongs to an audited slate, or all labels are the same.
    """
    used = {pair for slate in slates for item in slate.items if (pair := (slate.user, item)) in outcomes}
    if not used:
        raise InputError(f"none of {len(outcomes)} outcomes belongs to an audited slate, expected users and items of the log")
    reacted = {user for user, _ in outcomes} if likes_alone else set()
    labels = [[outcomes.get((s.user, item), False if s.user in reacted else None) for item in s.items] for s in slates]
    labelled = _Answers.of(slates, labels)
    if labelled.liked.all() or not labelled.liked.any():
        kind = "liked" if labelled.liked[0] else "not liked"
        raise InputError(f"all {len(labelled.liked)} labelled candidates are {kind}, expected both kinds")
    whole = _Answers.of(slates, [[False] * len(slate.items) for slate in slates])
    judged = (
        _metric(whole if metric.kind in LABEL_FREE else labelled, metric, limits.get(metric.name), tail) for metric in metrics
    )
    return Labelled(
        outcomes=(len(outcomes), len(used)),
        pairs=len(labelled.liked),
        users=len(np.unique(labelled.users)),
        metrics=tuple(metric for metric in judged if metric is not None),
        probabilities=tuple(
            _probabilities(name, c, labelled, prior_shift)
            for name, c in (("policy", labelled.policy), ("full depth", labelled.full))
        ),
    )


@dataclass(frozen=True)
class _Answers:
    """Candidates of audited slates, n of them.

    Attributes:
        users: int64 [n], numbered from 0 in order of appearance.
        liked: the labels, bool [n].
        offsets: where each slate begins, and n: int64 [S + 1].
        policy, full: c by the policy and at full depth, float32 [n].
    """

    users: NDArray[np.int64]
    liked: NDArray[np.bool_]
    offsets: NDArray[np.int64]
    policy: NDArray[np.float32]
    full: NDArray[np.float32]

    @classmethod
    def of(cls, slates: Sequence[AuditedSlate], labels: Sequence[Sequence[bool | None]]) -> _Answers:
        """Returns the candidates that have a label. labels: each slate's, one per candidate; None: it is left out."""
        known = [np.array([label is not None for label in row], np.bool_) for row in labels]
        rows = [(slate, mask) for slate, mask in zip(slates, known, strict=True) if mask.any()]
        sizes = [int(mask.sum()) for _, mask in rows]
        numbers: dict[Id, int] = {}
        return cls(
            np.repeat(np.array([numbers.setdefault(slate.user, len(numbers)) for slate, _ in rows], np.int64), sizes),
            np.array([label for row in labels for label in row if label is not None], np.bool_),
            np.concatenate(([0], np.cumsum(sizes))).astype(np.int64),
            np.concatenate([np.array(slate.policy, np.float32)[mask] for slate, mask in rows]),
            np.concatenate([np.array(slate.full, np.float32)[mask] for slate, mask in rows]),
        )

    @cached_property
    def judge(self) -> Judge:
        return Judge(self.users, self.liked, self.offsets, self.full)


def _metric(answers: _Answers, metric: Metric, limit: float | None, tail: Tail | None) -> LabelledMetric | None:
    """None if no user has both labels, or no slate has more than K candidates."""
    judge, score = answers.judge, answers.policy
    try:
        full = judge.full(metric)
    except InputError:
        return None
    value, drop, users = judge.value(metric, score), judge.drop(metric, score), judge.user_count(metric)
    if limit is None or metric.bounds is None:
        return LabelledMetric(metric.name, users, value, full, drop)
    test = LossTest(limit, tail, metric.bounds)
    for loss in judge.losses(metric, score).tolist():
        test.add(loss)
    of_tail = None if test.of_tail is None else (test.share, test.of_tail.value)
    return LabelledMetric(metric.name, users, value, full, drop, limit, test.capital.value, test.alarm, of_tail)


def _probabilities(name: str, c: NDArray[np.float32], answers: _Answers, prior_shift: float) -> Probabilities:
    p = Policy((ExitPolicy(),), 1, "", prior_shift=prior_shift).probability(c)
    log_loss = float(log_losses(c + np.float32(prior_shift), answers.liked).mean())
    return Probabilities(name, log_loss, Split(answers.liked, answers.users).reliability("answers", name, p))
