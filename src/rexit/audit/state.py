"""Audited slates in order -> the test of the policy.

    a slate ── of this policy, with a loss ──> counted as audited ── its user's first in a day ──> the test bets on its loss
          └─ otherwise ignored                                  └─ otherwise nothing more         └─ alarm: see ON_ALARM

The unit is a user, as in the certificate: somebody who asks a hundred times a day is not a hundred users. This assumes that the
next user who counts is like those who certified the policy, whoever counted before. Users who ask often are drawn sooner.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from rexit.audit.betting import LEVEL, LossTest
from rexit.audit.limits import AuditLimits
from rexit.audit.log import AuditedSlate
from rexit.bundle import Id
from rexit.errors import InputError
from rexit.ranking import MIN_USERS

LOG, FULL_DEPTH = "log", "full-depth"
ON_ALARM = (LOG, FULL_DEPTH)
"""What follows an alarm: a line in the log; full depth."""

PERIOD_S = 86400
MAX_TRACKED_USERS = 100_000
"""Beyond this many users in a period, those who counted first are forgotten and count again."""


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
    """The test of a policy.

    Args:
        limits: what is watched.
        on_alarm: one of ON_ALARM.

    Attributes:
        test: the bets against the limits.
        slates: audited slates with a loss, counted or not.
    """

    def __init__(self, limits: AuditLimits, on_alarm: str = LOG) -> None:
        if on_alarm not in ON_ALARM:
            raise InputError(f"on alarm {on_alarm!r}, expected one of {', '.join(ON_ALARM)}")
        self.limits, self._on_alarm = limits, on_alarm
        self.test, self.slates = LossTest(limits.limit, limits.tail), 0
        self._users = CountedUsers()

    @property
    def alarm(self) -> bool:
        """Whether there has been an alarm."""
        return self.test.alarm

    @property
    def full_depth(self) -> bool:
        """Whether an alarm has ended early exits."""
        return self.alarm and self._on_alarm == FULL_DEPTH

    def add(self, slate: AuditedSlate) -> str | None:
        """Adds an audited slate, unless it is another policy's or has no loss. Returns a line if it raises the alarm, once."""
        if slate.policy_sha256 != self.limits.sha256:
            return None
        loss = self.limits.loss_of(slate)
        if math.isnan(loss):
            return None
        self.slates += 1
        if not self._users.admit(slate):
            return None
        before = self.alarm
        self.test.add(loss)
        return self._alarm_line() if self.alarm and not before else None

    def add_all(self, slates: Iterable[AuditedSlate]) -> list[str]:
        """Adds audited slates in order. Returns the line of an alarm."""
        return [line for slate in slates if (line := self.add(slate)) is not None]

    @property
    def conclusion(self) -> str:
        """What the test says about the policy, without a full stop."""
        limit, title = self.limits.limit, self.limits.loss.title
        test, tail = self.test, self.limits.tail
        if test.mean is None:
            return f"none of its slates has a value of {title}, so nothing is known of what it loses"
        figures = f"{test.capital.count} users, one slate each, lose {test.mean:.4g} of {title} on average"
        limited = f"{figures} against full depth; at most {limit:.4g} is allowed"
        if tail is not None:
            limited += f"; {test.share:.1%} of them lose more than {tail.loss:g}, at most {tail.share:.1%} are allowed to"
        if self.alarm:
            above = "the mean is above it" if test.capital.alarm_at is not None else "more do"
            return f"{limited}, and {above} unless a chance of {LEVEL:.0%} came true"
        few = "too few users to tell, " if test.capital.count < MIN_USERS else ""
        return f"{limited}: {few}no sign of more"

    def to_json(self) -> dict[str, Any]:
        """Returns plain values: the limit and the state of the test."""
        return {
            "loss": self.limits.loss.name,
            "of": self.limits.of,
            "limit": self.limits.limit,
            "certified": self.limits.certified,
            "as_calibrated": self.limits.mean,
            "level": LEVEL,
            "slates": self.slates,
            "users": self.test.capital.count,
            "mean": self.test.mean,
            "capital": self.test.capital.value,
            "alarm": self.alarm,
            "alarm_at": self.test.capital.alarm_at,
            "tail": self._tail_json(),
        }

    def _tail_json(self) -> dict[str, Any] | None:
        tail, capital = self.limits.tail, self.test.of_tail
        if tail is None or capital is None:
            return None
        return {**asdict(tail), "observed": self.test.share, "capital": capital.value, "alarm_at": capital.alarm_at}

    def _alarm_line(self) -> str:
        test, limits, tail = self.test, self.limits, self.limits.tail
        shares = ("", "") if tail is None else (f", {test.share:.1%} of users too much", f" and a share within {tail.share:.1%}")
        line = (
            f"audit: alarm after {test.capital.count} users: the policy loses {test.mean:.4g} of {limits.loss.title}{shares[0]}; "
            f"with a mean within {limits.limit:.4g}{shares[1]} this alarm would ever come in at most {LEVEL:.0%} of all services"
        )
        return f"{line}{'; every candidate now runs to full depth' if self.full_depth else ''}: calibrate again"
