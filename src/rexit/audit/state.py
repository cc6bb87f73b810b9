"""The test's state: audited slates in order, and the rule in force.

The unit is a user, as in the certificate: of a user's slates in `PERIOD_S` seconds only the first counts, so that one who asks a
hundred times a day is not a hundred users. What is assumed: the next user who counts is one like those who certified the policy,
whoever counted before. Users who ask often are drawn sooner than others.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from rexit.audit.betting import LEVEL, Capital
from rexit.audit.limits import Limits
from rexit.audit.log import AuditedSlate
from rexit.bundle import Id
from rexit.errors import InputError

LOG, CAREFUL, FULL_DEPTH = "log", "careful", "full-depth"
ON_ALARM = (LOG, CAREFUL, FULL_DEPTH)
"""What follows an alarm: a line in the log; the next more careful certified rule, and full depth after the last; full depth."""

PERIOD_S = 86400
MOST_USERS = 100_000
"""Users of a period that are remembered; of more, the earliest are forgotten and count again."""


@dataclass
class Test:
    """The test of one rule.

    Attributes:
        capital: of the bets against the limit.
        slates: audited, counted or not.
        total: sum of the losses that counted.
    """

    __test__ = False  # no test of pytest's

    capital: Capital
    slates: int = 0
    total: float = field(default=0.0)

    @property
    def mean(self) -> float | None:
        """Mean loss of the slates that counted; None without any."""
        return self.total / self.capital.count if self.capital.count else None


class Watch:
    """The tests of a policy and of the more careful rules after it.

    Args:
        limits: what is watched.
        on_alarm: of ON_ALARM.

    Attributes:
        rule: number of the rule in force; `len(limits.rules)`: full depth, which has nothing to audit.
        tests: by number of the rule; each has the level to itself.
    """

    def __init__(self, limits: Limits, on_alarm: str = LOG) -> None:
        if on_alarm not in ON_ALARM:
            raise InputError(f"on alarm {on_alarm!r}, expected one of {', '.join(ON_ALARM)}")
        self.limits, self.on_alarm = limits, on_alarm
        self.rule = 0
        self.tests = [Test(Capital(rule.limit, LEVEL)) for rule in limits.rules]
        self._latest: OrderedDict[Id, float] = OrderedDict()

    @property
    def full_depth(self) -> bool:
        """Whether an alarm has ended early exits."""
        return self.rule == len(self.limits.rules)

    @property
    def alarm(self) -> bool:
        """Whether any rule has had an alarm."""
        return any(test.capital.alarm_at is not None for test in self.tests)

    @property
    def conclusion(self) -> str:
        """What the test says of the policy itself, without a full stop."""
        test, limit, title = self.tests[0], self.limits.rules[0].limit, self.limits.loss.title
        if test.mean is None:
            return f"none of its slates has a value of {title}, so nothing is known of what it loses"
        figures = f"{test.capital.count} users, one slate each, lose {test.mean:.4g} of {title} on average"
        limited = f"{figures} against full depth; at most {limit:.4g} is allowed"
        if test.capital.alarm_at is not None:
            return f"{limited}, and the mean is above it unless a chance of {LEVEL:.0%} came true"
        return f"{limited}, and nothing speaks against that"

    def add(self, slate: AuditedSlate) -> str | None:
        """Takes an audited slate. Returns a line if it raises an alarm. A slate of another policy, or without a loss, is
        ignored."""
        if slate.policy_sha256 != self.limits.sha256 or not 0 <= slate.rule < len(self.tests):
            return None
        loss = self.limits.loss_of(slate)
        if math.isnan(loss):
            return None
        test = self.tests[slate.rule]
        test.slates += 1
        if not self._counts(slate):
            return None
        before = test.capital.alarm_at
        test.capital.add(loss)
        test.total += loss
        if before is not None or test.capital.alarm_at is None:
            return None
        return self._raise_alarm(slate.rule)

    def add_all(self, slates: Iterable[AuditedSlate]) -> list[str]:
        """Takes audited slates in order. Returns the lines of their alarms."""
        return [line for slate in slates if (line := self.add(slate)) is not None]

    def to_json(self) -> dict[str, Any]:
        """Returns plain values: of each rule the limit and the test's state."""
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

    def _counts(self, slate: AuditedSlate) -> bool:
        """Whether the slate is its user's first in the period."""
        latest = self._latest.get(slate.user)
        if latest is not None and 0 <= slate.time - latest < PERIOD_S:
            return False
        self._latest[slate.user] = slate.time
        self._latest.move_to_end(slate.user)
        if len(self._latest) > MOST_USERS:
            self._latest.popitem(last=False)
        return True

    def _raise_alarm(self, rule: int) -> str:
        if rule == self.rule:
            if self.on_alarm == FULL_DEPTH:
                self.rule = len(self.limits.rules)
            elif self.on_alarm == CAREFUL:
                self.rule += 1
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
