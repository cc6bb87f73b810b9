"""Audits in order -> the test of the policy.

    a trace ── with a loss ──> counted as audited ── its user's first in a day ──> the test bets on its loss
          └─ otherwise ignored                  └─ otherwise nothing more         └─ alarm: see ON_ALARM

The policy is applied to the trace, so its loss is that of its own rules, whatever deadline or `top_k` the request had.

The unit is a user, as in the certificate: somebody who asks a hundred times a day is not a hundred users. This assumes that the
next user who counts is like those who certified the policy, whoever counted before. Users who ask often are drawn sooner.

`watch` in report.json is the loss that is tested, and its limit:

    "watch": {
      "loss": "top-k-overlap@10",    without labels, see `losses`
      "of": "ndcg@10",               the certified metric that it replaces
      "limit": 0.04, "mean": 0.031, "certified": false,
      "tail": {"share": 0.07, "loss": 0.1}}   null: no tail was certified

`certified`: the limit is the one that users were promised. Otherwise it is an upper bound of the certifying users' expected loss,
and an alarm says that users now lose more than those did, not that the certified metric dropped by more than allowed. So is the
tail's share: an upper bound of the certifying users' whose first slate loses more, since an audit sees a slate of each user.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from rexit.data.ranking import MIN_USERS
from rexit.errors import BundleError, InputError
from rexit.format.bundle import Bundle, Id, Policy
from rexit.format.bundle.files import read_json, typed
from rexit.upkeep.audit.betting import LEVEL, LossTest, Tail
from rexit.upkeep.audit.log import Audit, read_log
from rexit.upkeep.audit.losses import Loss

REPORT_FILE = "report.json"

LOG, FULL_DEPTH = "log", "full-depth"
ON_ALARM = (LOG, FULL_DEPTH)
"""What follows an alarm: a line in the log; full depth."""

PERIOD_S = 86400
MAX_TRACKED_USERS = 100_000
"""Beyond this many users in a period, those who counted first are forgotten and count again."""


class AuditLimits(msgspec.Struct, frozen=True):
    """What a service watches.

    Attributes:
        loss: name of the loss.
        of: name of the certified metric that it replaces.
        limit: the most that the mean loss may be.
        mean: the mean loss of the certifying users.
        certified: whether the limit is what users were promised.
        tail: at most this share of users may lose more than its loss on a slate; None: no tail was certified.
    """

    loss: str
    of: str
    limit: float
    mean: float
    certified: bool
    tail: Tail | None = None

    def __post_init__(self) -> None:
        for name, value in (("limit", self.limit), *([] if self.tail is None else [("tail.share", self.tail.share)])):
            if not 0 < value < 1:
                raise ValueError(f"{name}: is {value:g}, expected a number above 0 and below 1")
        try:
            Loss.parse(self.loss)
        except InputError as exc:
            raise ValueError(str(exc)) from exc

    @property
    def measure(self) -> Loss:
        """The loss."""
        return Loss.parse(self.loss)

    def to_json(self) -> dict[str, Any]:
        """Returns the value of `watch`."""
        values: dict[str, Any] = msgspec.to_builtins(self)
        return values

    def sentence(self) -> str:
        """Returns what is tested, in a sentence."""
        promise = "as certified" if self.certified else f"{self.mean:.4g} at calibration"
        return f"watching the loss of {self.measure.title}: alarm above {self.limit:.4g} ({promise})"


def read_limits(bundle: Bundle) -> AuditLimits:
    """Returns what calibration recorded for the bundle's policy.

    Raises:
        BundleError: There is no report, or it is another variant's or policy's.
        InputError: The policy stops nothing early, or was calibrated before there were limits.
    """
    path, sha256 = bundle.folder / REPORT_FILE, bundle.policy_sha256
    if sha256 is None:
        raise InputError(f"{bundle.folder}: has no policy to audit, expected one from `rexit calibrate`")
    report = read_json(path)
    for key, name, digest in (("variant_sha256", "variant", bundle.variant_sha256), ("policy_sha256", "policy", sha256)):
        if report.get(key) != digest:
            raise BundleError(f"{path}: made for another {name} than this one: calibrate again")
    if "watch" not in report:
        raise InputError(f"{path}: has no `watch`, the limit of what is audited: calibrate again")
    if report["watch"] is None:
        raise InputError(f"{path}: the policy runs every candidate to full depth, there is nothing to audit")
    return typed(report["watch"], AuditLimits, str(path), at="watch")


class CountedUsers:
    """Lets one audit of each user count in PERIOD_S seconds."""

    def __init__(self) -> None:
        self._counted_at: OrderedDict[Id, float] = OrderedDict()

    def admit(self, audit: Audit) -> bool:
        """Returns whether the audit counts: it is its user's first in the period."""
        user = audit.unit
        counted_at = self._counted_at.get(user)
        if counted_at is not None and 0 <= audit.time - counted_at < PERIOD_S:
            return False
        self._counted_at[user] = audit.time
        self._counted_at.move_to_end(user)
        if len(self._counted_at) > MAX_TRACKED_USERS:
            self._counted_at.popitem(last=False)
        return True


class Watch:
    """The test of a policy.

    Args:
        limits: what is watched.
        policy: the policy.
        sha256: its file's digest.
        on_alarm: one of ON_ALARM.

    Attributes:
        test: the bets against the limits.
        slates: audits with a loss, counted or not.
    """

    def __init__(self, limits: AuditLimits, policy: Policy, sha256: str, on_alarm: str = LOG) -> None:
        if on_alarm not in ON_ALARM:
            raise InputError(f"on alarm {on_alarm!r}, expected one of {', '.join(ON_ALARM)}")
        self.limits, self.policy, self.sha256, self._on_alarm = limits, policy, sha256, on_alarm
        self.test, self.slates = LossTest(limits.limit, limits.tail), 0
        self._users = CountedUsers()

    @classmethod
    def of(cls, bundle: Bundle, on_alarm: str = LOG) -> Watch:
        """Returns the test of a bundle's policy, without an audit yet. Raises what `read_limits` raises."""
        limits, policy, sha256 = read_limits(bundle), bundle.policy(), bundle.policy_sha256
        assert policy is not None and sha256 is not None
        return cls(limits, policy, sha256, on_alarm)

    @property
    def alarm(self) -> bool:
        """Whether there has been an alarm."""
        return self.test.alarm_at is not None

    @property
    def full_depth(self) -> bool:
        """Whether an alarm has ended early exits."""
        return self.alarm and self._on_alarm == FULL_DEPTH

    def loss_of(self, log_odds: NDArray[np.float32]) -> float:
        """Returns what the policy loses on a slate; nan if the slate has no loss, for instance because it is too short.

        Args:
            log_odds: from `Session.trace`, float32 [n, exits].
        """
        c, n = self.policy.calibrated(log_odds), len(log_odds)
        stops = self.policy.stops(log_odds, np.array([0, n]))
        return self.limits.measure.of_slate(c[np.arange(n), stops], c[:, -1])

    def add(self, audit: Audit) -> str | None:
        """Adds an audit, unless its slate has no loss. Returns a line if it raises the alarm, once."""
        loss = self.loss_of(audit.log_odds)
        if math.isnan(loss):
            return None
        self.slates += 1
        if not self._users.admit(audit):
            return None
        before = self.alarm
        self.test.add(loss)
        return self._alarm_line() if self.alarm and not before else None

    def add_all(self, audits: Iterable[Audit]) -> list[str]:
        """Adds audits in order. Returns the line of an alarm."""
        return [line for audit in audits if (line := self.add(audit)) is not None]

    def add_log(self, path: Path) -> list[str]:
        """Adds the policy's audits of a file, as `add_all` does. Raises what `read_log` raises."""
        return self.add_all(read_log(path, self.sha256, len(self.policy.exits)))

    @property
    def conclusion(self) -> str:
        """What the test says about the policy, without a full stop."""
        limit, title = self.limits.limit, self.limits.measure.title
        test, tail = self.test, self.limits.tail
        if test.mean is None:
            return f"nothing is known of what it loses: no audit of it has a value of {title} yet"
        figures = f"{test.capital.count} users, one slate each, lose {test.mean:.4g} of {title} on average"
        limited = f"{figures} against full depth; at most {limit:.4g} is allowed"
        if tail is not None:
            limited += f"; {test.share:.1%} of them lose more than {tail.loss:g}, at most {tail.share:.1%} are allowed to"
        if self.alarm:
            alarms = (("mean", test.capital), ("share", test.of_tail))
            above = " and the ".join(name for name, capital in alarms if capital is not None and capital.alarm_at is not None)
            return f"{limited}; the {above} cannot be within the limit unless a chance of {LEVEL:.0%} came true"
        few = "too few users to tell, " if test.capital.count < MIN_USERS else ""
        return f"{limited}: {few}no sign of more"

    def to_json(self) -> dict[str, Any]:
        """Returns plain values: the limit and the state of the test."""
        return {
            "loss": self.limits.loss,
            "of": self.limits.of,
            "limit": self.limits.limit,
            "certified": self.limits.certified,
            "as_calibrated": self.limits.mean,
            "level": LEVEL,
            "slates": self.slates,
            "users": self.test.capital.count,
            "mean": self.test.mean,
            "capital": self.test.capital.value,
            "alarm_capital": self.test.alarm_capital,
            "alarm": self.alarm,
            "alarm_at": self.test.alarm_at,
            "mean_alarm_at": self.test.capital.alarm_at,
            "tail": self._tail_json(),
        }

    def _tail_json(self) -> dict[str, Any] | None:
        tail, capital = self.limits.tail, self.test.of_tail
        if tail is None or capital is None:
            return None
        return {**asdict(tail), "observed": self.test.share, "capital": capital.value, "alarm_at": capital.alarm_at}

    def _alarm_line(self) -> str:
        depth = "; every candidate now runs to full depth" if self.full_depth else ""
        return f"audit: alarm after {self.test.alarm_at} users: {self.conclusion}{depth}: calibrate again"
