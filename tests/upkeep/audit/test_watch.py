"""The test of a policy: whose losses count, and what an alarm changes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

from rexit.errors import InputError
from rexit.format.bundle import ExitPolicy, Policy, TopK
from rexit.upkeep.audit import Audit, AuditLimits, Watch, watch
from rexit.upkeep.audit.betting import Tail

LIMITS = AuditLimits("agreement", "ndcg@10", 0.1, 0.05, False)
FIRST = Policy((ExitPolicy(upper=-1e9), ExitPolicy()), 1, "variant")
"""Stops all at the first exit."""


def trace(*rows: tuple[float, ...]) -> np.ndarray:
    return np.array(rows, np.float32)


AUDIT = Audit(0.0, {"user": 0}, trace((1, -1), (2, -2)), "digest")
"""Its loss of agreement is 1."""


def audit(user: Any, log_odds: np.ndarray = AUDIT.log_odds, time: float = 0.0) -> Audit:
    return replace(AUDIT, request={"user": user}, log_odds=log_odds, time=time)


def watching(on_alarm: str = "log", policy: Policy = FIRST, **limits: Any) -> Watch:
    return Watch(msgspec.structs.replace(LIMITS, **limits), policy, "digest", on_alarm)


def test_slates_without_a_loss_do_not_count() -> None:
    test = watching(loss="top-k-overlap@1")
    assert test.add(audit(0, trace((1, 1)))) is None
    assert test.slates == 0 and test.test.mean is None
    test.add(AUDIT)
    assert test.slates == test.test.mean == 1


def test_a_user_counts_once_in_a_period(monkeypatch: pytest.MonkeyPatch) -> None:
    test = watching()
    for hours in (0, 1, 23, 24, 47, 48.5):
        test.add(audit(0, time=3600.0 * hours))
    assert test.test.capital.count == 3 and test.slates == 6 and test.test.mean == 1
    monkeypatch.setattr(watch, "MAX_TRACKED_USERS", 2)
    test = watching()
    test.add_all(audit(user) for user in (1, 2, 3, 3, 2, 1))
    assert test.test.capital.count == 4, "of more users than are remembered, the earliest counts again"


@pytest.mark.parametrize("on_alarm", ["log", "full-depth"])
def test_an_alarm_comes_once(on_alarm: str) -> None:
    test = watching(on_alarm)
    (line,) = test.add_all(audit(n) for n in range(50))
    assert test.to_json()["alarm_capital"] == 20 and "; the mean cannot be within the limit unless" in line
    assert test.alarm and test.full_depth == (on_alarm == "full-depth")
    assert line.startswith("audit: alarm after ") and ", lose 1 of agreement on average" in line
    assert line.endswith(": calibrate again")


def test_a_tail_has_an_alarm_of_its_own() -> None:
    """The mean loss, 0.1 of every user's, is within its limit; 3 in 10 users lose 0.5, at most 1 in 10 may lose more than 0.2."""
    limits: dict[str, Any] = {"limit": 0.5, "tail": Tail(0.1, 0.2)}
    test = watching(**limits)
    whole, half = trace((1, 1), (2, 2)), trace((1, -1), (2, 2))
    lines = test.add_all(audit(n, half if n % 10 < 3 else whole) for n in range(200))
    values = test.to_json()
    tail = values["tail"]
    assert len(lines) == 1 and f"alarm after {tail['alarm_at']} users: " in lines[0]
    assert values["alarm_at"] == tail["alarm_at"] and values["mean_alarm_at"] is None and tail["observed"] == 0.3
    assert tail["capital"] > values["alarm_capital"] == 40
    assert test.conclusion.endswith(
        "30.0% of them lose more than 0.2, at most 10.0% are allowed to; the share cannot be within the limit unless a chance "
        "of 5% came true"
    )
    calm = watching(**limits)
    assert calm.add_all(audit(n, half if n % 20 == 0 else whole) for n in range(200)) == []
    assert calm.conclusion.endswith("5.0% of them lose more than 0.2, at most 10.0% are allowed to: no sign of more")


def test_other_actions_are_refused() -> None:
    with pytest.raises(InputError, match="on alarm 'stop', expected one of log, full-depth"):
        watching("stop")


@pytest.mark.parametrize(
    ("policy", "loss"),
    [
        # The first exit's order is 0 1 2 3, full depth's 0 3 2 1.
        (FIRST, 3 / 6),
        (replace(FIRST, exits=(ExitPolicy(upper=7.5), ExitPolicy())), 2 / 6),  # 0 and 1 stop
        (replace(FIRST, exits=(ExitPolicy(), ExitPolicy())), 0),
        (replace(FIRST, exits=(ExitPolicy(), ExitPolicy()), quorum=4), 3 / 6),
        (replace(FIRST, exits=(ExitPolicy(), ExitPolicy()), top_k=TopK(3, False, (0.0,), (0.0,))), 3 / 6),
    ],
)
def test_the_policy_is_applied_to_the_trace(policy: Policy, loss: float) -> None:
    log_odds = trace((9, 4), (8, 1), (7, 2), (-1, 3))
    assert watching(policy=policy, loss="rank-correlation").loss_of(log_odds) == pytest.approx(loss)
    assert math.isnan(watching(policy=policy, loss="top-k-overlap@4").loss_of(log_odds))
