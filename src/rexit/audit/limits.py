"""`watch` in report.json: the loss that a service watches, and its limit, for the policy and for more careful ones.

    "watch": {
      "loss": "top-k-overlap@10",    without labels, see `losses`
      "of": "ndcg@10",               the certified metric that it replaces
      "full": {"a": 0.9, "b": -0.1},   the last head's own map: losses are counted against its answers
      "rules": [                     the policy, then the certified ones before it in their sequence, each more careful
        {"certified": false, "limit": 0.04, "mean": 0.031, "upper": [2.5, null], "lower": [null, null],
         "patience": 1, "quorum": 0, "top_k": null}]}

`certified`: the limit is the one that users were promised. Otherwise it is an upper bound of the certifying users' expected loss,
and an alarm says that users now lose more than those did, not that the certified metric dropped by more than allowed.
"""

from __future__ import annotations

import math
import time as clock
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from rexit.audit.log import AuditedSlate
from rexit.audit.losses import Loss
from rexit.bundle import Bundle, ExitPolicy, Id, Policy, TopK
from rexit.bundle.files import read_json
from rexit.bundle.typed import typed
from rexit.errors import BundleError, InputError

if TYPE_CHECKING:
    from rexit.runtime import Audit

REPORT_FILE = "report.json"


class RuleRecord(msgspec.Struct, frozen=True):
    """A rule as report.json has it: the thresholds of all exits, null where nothing reaches them, and how many each
    keeps, 0: all."""

    certified: bool
    limit: float
    mean: float
    upper: tuple[float | None, ...]
    lower: tuple[float | None, ...]
    keep: tuple[int, ...]
    patience: int
    quorum: float
    top_k: TopK | None

    def __post_init__(self) -> None:
        if not 0 < self.limit < 1:
            raise ValueError(f"limit: is {self.limit:g}, expected a number above 0 and below 1")


class _Map(msgspec.Struct, frozen=True):
    a: float
    b: float


class _Watch(msgspec.Struct, frozen=True):
    loss: str
    of: str
    full: _Map
    rules: tuple[RuleRecord, ...]


@dataclass(frozen=True)
class WatchedRule:
    """A policy to watch.

    Attributes:
        policy: as the runtime reads it.
        limit: the most that its mean loss may be.
        mean: the mean loss of the certifying users.
        certified: whether the limit is what users were promised.
    """

    policy: Policy
    limit: float
    mean: float
    certified: bool

    @classmethod
    def of(cls, record: RuleRecord, policy: Policy) -> WatchedRule:
        """Returns a recorded rule with the maps of `policy`. Raises ValueError if no policy can have it."""
        rules = zip(policy.exits, map(_threshold, record.upper), map(_threshold, record.lower), record.keep, strict=True)
        exits = tuple(replace(e, upper=upper, lower=lower, keep=keep) for e, upper, lower, keep in rules)
        ruled = replace(policy, exits=exits, patience=record.patience, quorum=record.quorum, top_k=record.top_k)
        if (problem := ruled.problem()) is not None:
            raise ValueError(problem)
        return cls(ruled, record.limit, record.mean, record.certified)

    def to_json(self) -> dict[str, Any]:
        """Returns plain values of a RuleRecord. The maps are left out: they are the bundle's."""
        policy = self.policy
        return {
            "certified": self.certified,
            "limit": self.limit,
            "mean": self.mean,
            "upper": [_finite(exit_.upper) for exit_ in policy.exits],
            "lower": [_finite(exit_.lower) for exit_ in policy.exits],
            "keep": list(policy.keep),
            "patience": policy.patience,
            "quorum": _finite(policy.quorum),
            "top_k": None if policy.top_k is None else _top_k(policy.top_k),
        }


@dataclass(frozen=True)
class AuditLimits:
    """What a service watches.

    Attributes:
        loss: the loss.
        of: name of the certified metric that it replaces.
        full: the last head's own map.
        rules: the policy, then more careful ones.
        sha256: digest of policy.json.
    """

    loss: Loss
    of: str
    full: ExitPolicy
    rules: tuple[WatchedRule, ...]
    sha256: str

    def to_json(self) -> dict[str, Any]:
        """Returns the value of `watch`."""
        return {
            "loss": self.loss.name,
            "of": self.of,
            "full": {"a": self.full.a, "b": self.full.b},
            "rules": [rule.to_json() for rule in self.rules],
        }

    def sentence(self) -> str:
        """Returns what is tested of the policy, in a sentence."""
        policy = self.rules[0]
        promise = "as certified" if policy.certified else f"{policy.mean:.4g} at calibration"
        return f"watching the loss of {self.loss.title}: alarm above {policy.limit:.4g} ({promise})"

    def loss_of(self, slate: AuditedSlate) -> float:
        """Returns the loss of an audited slate; nan if it has none, for instance because it is too short."""
        return self.loss.of_slate(np.array(slate.policy, np.float32), slate.full(self.full))

    def slate(self, user: Id, items: Sequence[Id], audit: Audit, *, rule: int = 0, time: float | None = None) -> AuditedSlate:
        """Returns an audit in the form that `Watch` and the log take.

        Args:
            user: the user's id.
            items: ids of the request's candidates, n of them.
            audit: from `Session.audit`.
            rule: number of the rule that answered.
            time: when it was audited, in seconds since 1970; None: now.
        """
        at = round(clock.time() if time is None else time, 3)
        values = audit.policy_c.tolist(), audit.full_log_odds.tolist(), audit.exit.tolist()
        return AuditedSlate(at, user, list(items), *values, rule, self.sha256)


def read_limits(bundle: Bundle) -> AuditLimits:
    """Returns what calibration recorded for the bundle's policy.

    Raises:
        BundleError: There is no report, or it is another variant's.
        InputError: The policy stops nothing early, or was calibrated before there were limits.
    """
    path = bundle.folder / REPORT_FILE
    policy, sha256 = bundle.policy(), bundle.policy_sha256
    if policy is None or sha256 is None:
        raise InputError(f"{bundle.folder}: has no policy to audit, expected one: run `rexit calibrate`")
    report = read_json(path)
    if report.get("variant_sha256") != bundle.variant_sha256:
        raise BundleError(f"{path}: made for another variant than this one: calibrate again")
    if "watch" not in report:
        raise InputError(f"{path}: has no `watch`, the limit of what is audited: calibrate again")
    watch = report["watch"]
    if watch is None:
        raise InputError(f"{path}: the policy runs every candidate to full depth, there is nothing to audit")
    file = typed(watch, _Watch, str(path), at="watch")
    try:
        rules = tuple(WatchedRule.of(record, policy) for record in file.rules)
        full = ExitPolicy(file.full.a, file.full.b)
        if (problem := Policy((full,), 1, "").problem()) is not None:
            raise ValueError(f"full: {problem}")
        limits = AuditLimits(Loss.parse(file.loss), file.of, full, rules, sha256)
    except (ValueError, InputError) as exc:
        raise BundleError(f"{path}: watch: {exc}: calibrate again") from exc
    if not rules or rules[0].to_json() != replace(rules[0], policy=policy).to_json():
        raise BundleError(f"{path}: watch: its first rule is not policy.json's: calibrate again")
    return limits


def _top_k(rule: TopK) -> dict[str, Any]:
    moves = {"rise": rule.rise, "fall": rule.fall}
    return {"k": rule.k, "ordered": rule.ordered, **{name: list(map(_finite, values)) for name, values in moves.items()}}


def _threshold(value: float | None) -> float:
    return math.inf if value is None else value


def _finite(number: float) -> float | None:
    return None if math.isinf(number) else float(np.float32(number))
