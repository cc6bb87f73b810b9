"""Audited slates in order -> a test for each rule, and the rule in force.

    a slate ── of this policy, with a loss ──> counted as audited ── its user's first in a day ──> the test bets on its loss
          └─ otherwise ignored                                  └─ otherwise nothing more         └─ alarm: see ON_ALARM

The unit is a user, as in the certificate: somebody who asks a hundred times a day is not a hundred users. This assumes that the
next user who counts is like those who certified the policy, whoever counted before. Users who ask often are drawn sooner.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rexit.audit.betting import LEVEL, Capital
from rexit.audit.limits import AuditLimits
from rexit.audit.log import AuditedSlate
from rexit.bundle import Id
from rexit.errors import InputError
from rexit.ranking import MIN_USERS

LOG, CAREFUL, FULL_DEPTH = "log", "careful", "full-depth"
ON_ALARM = (LOG, CAREFUL, FULL_DEPTH)
"""What follows an alarm: a line in the log; the next more careful certified rule, and full depth after the last; full depth."""

PERIOD_S = 86400
MAX_TRACKED_USERS = 100_000
"""Beyond this many users in a period, those who counted first are forgotten and count again."""


@dataclass
class LossTest:
    """The test of one rule.

    Attributes:
        capital: the bets against the limit.
        slates: audited slates with a loss, counted or not.
        total: sum of the counted losses.
    """

    capital: Capital
    slates: int = 0
    total: float = 0.0

    @property
    def mean(self) -> float | None:
        """Mean of the counted losses; None without any."""
        return self.total / self.capital.count if self.capital.count else None

    def add(self, loss: float) -> bool:
        """Bets on a loss. Returns whether it raises the alarm, which happens once."""
        before = self.capital.alarm_at
        self.capital.add(loss)
        self.total += loss
        return before is None and self.capital.alarm_at is not None


class CountedUsers:
    """Lets one slate of each user count in PERIOD_S seconds."""

    def __init__(self) -> None:
        self._counted_at: OrderedDict[Id, float] = OrderedDict()

    def admit(self, slate: AuditedSlate) -> bool:
        """Returns whether the slate counts: it is its user's first in the period."""
        counted_at = self._counted_at.get(slate.user)
        if counted_at is not None and 0 <= slate.time - counted_at < PERIOD_S:
            return False
        self._counted_at[slate.user] = slate.time
        self._counted_at.move_to_end(slate.user)
        if len(self._counted_at) > MAX_TRACKED_USERS:
            self._counted_at.popitem(last=False)
        return True


class Watch:
    """The tests of a policy and of the more careful rules after it.

    Args:
        limits: what is watched.
        on_alarm: one of ON_ALARM.

    Attributes:
        rule: number of the rule in force; `len(limits.rules)`: full depth, which has nothing to audit.
        tests: by number of the rule. Each has the level to itself.
    """

    def __init__(self, limits: AuditLimits, on_alarm: str = LOG) -> None:
        if on_alarm not in ON_ALARM:
            raise InputError(f"on alarm {on_alarm!r}, expected one of {', '.join(ON_ALARM)}")
        self.limits, self.on_alarm = limits, on_alarm
        self.rule = 0
        self.tests = [LossTest(Capital(rule.limit, LEVEL)) for rule in limits.rules]
        self._users = CountedUsers()

    @property
    def full_depth(self) -> bool:
        """Whether an alarm has ended early exits."""
        return self.rule == len(self.limits.rules)

    @property
    def alarm(self) -> bool:
        """Whether any rule has had an alarm."""
        return any(test.capital.alarm_at is not None for test in self.tests)

    def add(self, slate: AuditedSlate) -> str | None:
        """Adds an audited slate, unless it is another policy's or has no loss. Returns a line if it raises an alarm."""
        if slate.policy_sha256 != self.limits.sha256 or not 0 <= slate.rule < len(self.tests):
            return None
        loss = self.limits.loss_of(slate)
        if math.isnan(loss):
            return None
        test = self.tests[slate.rule]
        test.slates += 1
        if not self._users.admit(slate) or not test.add(loss):
            return None
        if slate.rule == self.rule:
            self.rule = self._rule_after_alarm()
        return self._alarm_line(slate.rule)

    def add_all(self, slates: Iterable[AuditedSlate]) -> list[str]:
        """Adds audited slates in order. Returns the lines of their alarms."""
        return [line for slate in slates if (line := self.add(slate)) is not None]

    @property
    def conclusion(self) -> str:
        """What the test says about the policy itself, without a full stop."""
        test, limit, title = self.tests[0], self.limits.rules[0].limit, self.limits.loss.title
        if test.mean is None:
            return f"none of its slates has a value of {title}, so nothing is known of what it loses"
        figures = f"{test.capital.count} users, one slate each, lose {test.mean:.4g} of {title} on average"
        limited = f"{figures} against full depth; at most {limit:.4g} is allowed"
        if test.capital.alarm_at is not None:
            return f"{limited}, and the mean is above it unless a chance of {LEVEL:.0%} came true"
        few = "too few users to tell, " if test.capital.count < MIN_USERS else ""
        return f"{limited}: {few}no sign of more"

    def to_json(self) -> dict[str, Any]:
        """Returns plain values: each rule's limit and the state of its test."""
        return {
            "loss": self.limits.loss.name,
            "of": self.limits.of,
            "level": LEVEL,
            "alarm": self.alarm,
            "rules": [
                {
                    "rule": n,
                    "limit": rule.limit,
                    "certified": rule.certified,
                    "as_calibrated": rule.mean,
                    "slates": test.slates,
                    "users": test.capital.count,
                    "mean": test.mean,
                    "capital": test.capital.value,
                    "alarm_at": test.capital.alarm_at,
                }
                for n, (rule, test) in enumerate(zip(self.limits.rules, self.tests, strict=True))
            ],
        }

    def _rule_after_alarm(self) -> int:
        if self.on_alarm == LOG:
            return self.rule
        return self.rule + 1 if self.on_alarm == CAREFUL else len(self.limits.rules)

    def _alarm_line(self, rule: int) -> str:
        test, limit = self.tests[rule], self.limits.rules[rule].limit
        name = "the policy" if rule == 0 else f"rule {rule}"
        line = (
            f"audit: alarm after {test.capital.count} users: {name} loses {test.mean:.4g} of {self.limits.loss.title}; "
            f"with a mean within {limit:.4g} this alarm would ever come in at most {LEVEL:.0%} of all services"
        )
        if self.full_depth:
            return f"{line}; every candidate now runs to full depth: calibrate again"
        if self.rule > rule:
            return f"{line}; rule {self.rule}, a more careful one, now answers: calibrate again"
        return f"{line}: calibrate again"
