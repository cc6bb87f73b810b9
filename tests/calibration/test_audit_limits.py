"""What calibration records for a service to watch: the loss and its limit."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from builders.decisions import decide_on
from builders.traces import traces
from rexit.calibration import audit_limits, certify
from rexit.calibration.decision import Decision, back_to_full_depth
from rexit.calibration.goal import Goal
from rexit.calibration.metrics import Judge, parse
from rexit.calibration.traces import split_users
from rexit.upkeep.audit.betting import Tail

NOISE = (0.6, 0.0)


@cache
def decided(metrics: tuple[str, ...], max_drop: float, slate: int = 10, users: int = 600, pairs: int = 20) -> Decision:
    return decide_on(traces(users, pairs, NOISE, seed=1, slate=slate), Goal(tuple(map(parse, metrics)), max_drop))


@pytest.mark.parametrize("pairs", [10, 20])  # one slate of each user, and two
def test_a_limit_without_a_promise_is_an_upper_bound(pairs: int) -> None:
    """By hand, on the certifying users: the mean is below it, and it would be certified while less would not."""
    decision = decided(("ndcg@5", "user-auc"), 0.05, pairs=pairs)
    limits = decision.watch
    assert limits is not None and (limits.loss, limits.of) == ("top-k-overlap@5", "ndcg@5")
    assert not limits.certified
    data = split_users(traces(600, pairs, NOISE, seed=1, slate=10))[1]
    stops, c = decision.policy.stops(data.log_odds, data.offsets), decision.policy.calibrated(data.log_odds)
    full, score = np.ascontiguousarray(c[:, -1]), np.take_along_axis(c, stops[:, None], 1)[:, 0]
    losses = Judge(data.users, data.liked, data.offsets, full).losses(parse("top-k-overlap@5"), score)
    assert limits.mean == pytest.approx(losses.mean())
    level = 0.05 / len(decision.candidates)
    assert limits.mean < limits.limit < limits.mean + 0.1
    assert (
        certify.p_value(losses, (0, 1), limits.limit, level)
        <= level
        < certify.p_value(losses, (0, 1), limits.limit - 2e-4, level)
    )


@pytest.mark.medium
def test_a_certified_metric_without_labels_keeps_its_promise() -> None:
    limits = decided(("ndcg@5", "agreement"), 0.1).watch
    assert limits is not None and limits.loss == "agreement"
    assert limits.certified and limits.limit == 0.1 and limits.mean < 0.1


def test_a_certified_tail_is_watched_by_slates() -> None:
    """Two slates of each user: the certificate counts users by their mean, an audit by a slate."""
    goal = Goal((parse("top-k-overlap@5"),), 0.2, tail=Tail(0.5, 0.3))
    decision = decide_on(traces(600, 20, NOISE, seed=1, slate=10), goal)
    limits = decision.watch
    assert limits is not None and limits.tail is not None and limits.tail.loss == 0.3
    assert limits.to_json()["tail"] == {"share": limits.tail.share, "loss": 0.3}
    assert 0 < limits.tail.share < 1


@pytest.mark.medium
@pytest.mark.parametrize(
    ("metrics", "slate", "loss"),
    [
        (("ndcg@5",), 5, "rank-correlation"),
        pytest.param(("user-auc",), 10, "rank-correlation", marks=pytest.mark.slow),
        (("ndcg@5",), 6, "top-k-overlap@5"),
        (("user-auc",), 1, "agreement"),
    ],
)
def test_the_loss_that_replaces_a_metric(metrics: tuple[str, ...], slate: int, loss: str) -> None:
    limits = decided(metrics, 0.08, slate).watch
    assert limits is not None and limits.loss == loss and 0 <= limits.mean < limits.limit


def test_full_depth_has_nothing_to_watch() -> None:
    assert back_to_full_depth(decided(("ndcg@5", "user-auc"), 0.05)).watch is None
    assert decided(("ndcg@5",), 0.005, users=60).watch is None


def test_upper_bounds_cover_the_mean() -> None:
    """At most 5 % of 100 samples of 300 users have a bound below the mean, and bounds are not far above it."""
    random = np.random.default_rng(0)
    bounds = np.array([audit_limits.upper_bound(random.binomial(10, 0.03, 300) / 10, 0.05) for _ in range(100)])
    assert np.count_nonzero(bounds < 0.03) <= 5 and np.median(bounds) < 0.045
    assert audit_limits.upper_bound(np.zeros(300), 0.05) > 0
    assert audit_limits.upper_bound(np.ones(3), 0.05) == 1 - 1e-4
