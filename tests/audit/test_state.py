"""The test's state: whose losses count, and which rule is in force."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest

from rexit.audit import AuditedSlate, Limits, Loss, Watch, state
from rexit.audit.limits import Rule
from rexit.bundle import ExitPolicy, Policy
from rexit.errors import InputError

POLICY = Policy.full_depth(2, "variant")
LIMITS = Limits(
    Loss("agreement"), "ndcg@10", ExitPolicy(), tuple(Rule(POLICY, limit, limit / 2, False) for limit in (0.1, 0.2)), "digest"
)
SLATE = AuditedSlate(0.0, 0, [1, 2], [1.0, 2.0], [1.0, 2.0], [0, 0], 1.0, "agreement", 0, "digest")


def test_slates_of_other_policies_losses_and_rules_do_not_count() -> None:
    watch = Watch(LIMITS)
    for change in ({"policy_sha256": "other"}, {"loss_name": "rank-correlation"}, {"rule": 2}, {"rule": -1}):
        assert watch.add(replace(SLATE, **change)) is None  # type: ignore[arg-type]
    assert [test.slates for test in watch.tests] == [0, 0]


def test_a_user_counts_once_in_a_period(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Watch(LIMITS)
    for hours in (0, 1, 23, 24, 47, 48.5):
        watch.add(replace(SLATE, time=3600.0 * hours))
    assert watch.tests[0].capital.count == 3 and watch.tests[0].slates == 6 and watch.tests[0].mean == 1
    monkeypatch.setattr(state, "MOST_USERS", 2)
    watch = Watch(LIMITS)
    watch.add_all(replace(SLATE, user=user) for user in (1, 2, 3, 3, 2, 1))
    assert watch.tests[0].capital.count == 4, "of more users than are remembered, the earliest counts again"


@pytest.mark.parametrize(("on_alarm", "rules"), [("log", [0, 0, 0]), ("careful", [0, 1, 2]), ("full-depth", [0, 2, 2])])
def test_an_alarm_puts_another_rule_in_force(on_alarm: str, rules: list[int]) -> None:
    watch, lines = Watch(LIMITS, on_alarm), []
    in_force = [watch.rule]
    for rule in (0, 1):
        lines += watch.add_all(replace(SLATE, user=1000 * rule + n, rule=rule) for n in range(50))
        in_force.append(watch.rule)
    assert in_force == rules and len(lines) == 2 and watch.full_depth == (rules[-1] == 2) and watch.alarm
    assert lines[0].startswith("audit: alarm after ") and "the policy loses 1 of agreement; with a mean within 0.1 " in lines[0]
    assert all(line.endswith(": calibrate again") for line in lines)


def test_other_actions_are_refused() -> None:
    with pytest.raises(InputError, match="on alarm 'stop', expected one of log, careful, full-depth"):
        Watch(LIMITS, "stop")


class Answered(NamedTuple):
    """Of a request with top_k: two of three candidates, best first."""

    index: np.ndarray = np.array([2, 0])
    exit: np.ndarray = np.array([0, 1])


def test_an_answer_is_compared_with_full_depth() -> None:
    """By hand: maps with a curve, and an exit that follows from the rule where the answer leaves it out."""
    maps = (ExitPolicy(2.0, 1.0, upper=-1e9), ExitPolicy(1.0, 0.5, curve=((-10.0, -20.0), (10.0, 20.0))))
    policy = Policy(maps, 1, "variant")
    limits = Limits(Loss("rank-correlation"), "ndcg@10", maps[1], (Rule(policy, 0.1, 0.05, False),), "digest")
    log_odds = np.array([[1, 4], [2, 3], [3, 2]], np.float32)
    slate = limits.audit("u", [7, 8, 9], Answered(), log_odds, top_k=2, time=5.0)
    assert slate is not None and slate.exits == [1, 0, 0]
    assert slate.policy == [9.0, 5.0, 7.0] and slate.full == [9.0, 7.0, 5.0]
    assert slate.loss == pytest.approx(1 / 3) and (slate.user, slate.items, slate.time) == ("u", [7, 8, 9], 5.0)
    assert limits.audit("u", [7], Answered(np.array([0]), np.array([0])), log_odds[:1]) is None, "one candidate has no order"
