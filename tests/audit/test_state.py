"""The test's state: whose losses count, and what an alarm changes."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest

from rexit.audit import AuditedSlate, AuditLimits, Loss, Watch, state
from rexit.audit.betting import Tail
from rexit.errors import InputError

LIMITS = AuditLimits(Loss("agreement"), "ndcg@10", 0.1, 0.05, False, "digest")
SLATE = AuditedSlate(0.0, 0, [1, 2], [1.0, 2.0], [-1.0, -2.0], [0, 0], "digest")
"""Its loss of agreement is 1."""


def test_slates_of_other_policies_and_without_a_loss_do_not_count() -> None:
    watch = Watch(replace(LIMITS, loss=Loss("top-k-overlap", 1)))
    alone = {"items": [1], "policy": [1.0], "full": [1.0], "exits": [0]}
    for change in ({"policy_sha256": "other"}, alone):
        assert watch.add(replace(SLATE, **change)) is None  # type: ignore[arg-type]
    assert watch.slates == 0 and watch.test.mean is None
    watch.add(SLATE)
    assert watch.slates == watch.test.mean == 1


def test_a_user_counts_once_in_a_period(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Watch(LIMITS)
    for hours in (0, 1, 23, 24, 47, 48.5):
        watch.add(replace(SLATE, time=3600.0 * hours))
    assert watch.test.capital.count == 3 and watch.slates == 6 and watch.test.mean == 1
    monkeypatch.setattr(state, "MAX_TRACKED_USERS", 2)
    watch = Watch(LIMITS)
    watch.add_all(replace(SLATE, user=user) for user in (1, 2, 3, 3, 2, 1))
    assert watch.test.capital.count == 4, "of more users than are remembered, the earliest counts again"


@pytest.mark.parametrize("on_alarm", ["log", "full-depth"])
def test_an_alarm_comes_once(on_alarm: str) -> None:
    watch = Watch(LIMITS, on_alarm)
    (line,) = watch.add_all(replace(SLATE, user=n) for n in range(50))
    assert watch.alarm and watch.full_depth == (on_alarm == "full-depth")
    assert line.startswith("audit: alarm after ") and "the policy loses 1 of agreement; with a mean within 0.1 " in line
    assert line.endswith(": calibrate again")


def test_a_tail_has_an_alarm_of_its_own() -> None:
    """The mean loss, 0.1 of every user's, is within its limit; 3 in 10 users lose 0.5, at most 1 in 10 may lose more than 0.2."""
    limits = replace(LIMITS, limit=0.5, tail=Tail(0.1, 0.2))
    watch = Watch(limits)
    whole, half = (replace(SLATE, full=list(odds)) for odds in ((1.0, 2.0), (-1.0, 2.0)))
    lines = watch.add_all(replace(half if n % 10 < 3 else whole, user=n) for n in range(200))
    assert len(lines) == 1 and "% of users too much; with a mean within 0.5 and a share within 10.0% this alarm" in lines[0]
    tail = watch.to_json()["tail"]
    assert watch.to_json()["alarm_at"] is None and tail["alarm_at"] and tail["observed"] == 0.3
    assert watch.conclusion.endswith(
        "30.0% of them lose more than 0.2, at most 10.0% are allowed to, and more do unless a chance of 5% came true"
    )
    calm = Watch(limits)
    assert calm.add_all(replace(half if n % 20 == 0 else whole, user=n) for n in range(200)) == []
    assert calm.conclusion.endswith("5.0% of them lose more than 0.2, at most 10.0% are allowed to: no sign of more")


def test_other_actions_are_refused() -> None:
    with pytest.raises(InputError, match="on alarm 'stop', expected one of log, full-depth"):
        Watch(LIMITS, "stop")


class Audited(NamedTuple):
    """A `rexit.runtime.Audit` of three candidates."""

    exit: np.ndarray = np.array([1, 0, 0])
    policy_c: np.ndarray = np.array([9, 5, 7], np.float32)
    full_c: np.ndarray = np.array([4, 3, 2], np.float32)


def test_an_answer_is_compared_with_full_depth() -> None:
    limits = replace(LIMITS, loss=Loss("rank-correlation"))
    slate = limits.slate("u", [7, 8, 9], Audited(), time=5.0)
    assert slate == AuditedSlate(5.0, "u", [7, 8, 9], [9.0, 5.0, 7.0], [4.0, 3.0, 2.0], [1, 0, 0], "digest")
    assert limits.loss_of(slate) == pytest.approx(1 / 3)
