"""`watch` in report.json: the loss that a service watches, and its limit, for the policy and for more careful ones.

    "watch": {
      "loss": "top-k-overlap@10",    without labels, see `losses`
      "of": "ndcg@10",               the certified metric that it stands for
      "full": {"a": 0.9, "b": -0.1},   the last head's own map: what losses are counted against
      "rules": [                     the policy, then the certified ones before it in their sequence, each more careful
        {"certified": false, "limit": 0.04, "mean": 0.031, "upper": [2.5, null], "lower": [null, null],
         "patience": 1, "quorum": 0, "top_k": null}]}

`certified`: the limit is the one that users were promised. Otherwise it is an upper bound of the loss that the certifying users
had: an alarm then says that users lose more than those did, not that the certified metric does.
"""

from __future__ import annotations

import math
import time as clock
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from rexit.audit.log import AuditedSlate
from rexit.audit.losses import Loss
from rexit.bundle import Bundle, ExitPolicy, Id, Policy, TopK
from rexit.bundle.files import read_json
from rexit.bundle.typed import typed
from rexit.errors import BundleError, InputError

REPORT_FILE = "report.json"


class WatchedRule(msgspec.Struct, frozen=True):
    """A rule as report.json has it: the thresholds of all exits, null where nothing reaches them."""

    certified: bool
    limit: float
    mean: float
    upper: tuple[float | None, ...]
    lower: tuple[float | None, ...]
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
    rules: tuple[WatchedRule, ...]


@dataclass(frozen=True)
class Rule:
    """A policy to watch.

    Attributes:
        policy: as the runtime has it.
        limit: of its mean loss.
        mean: the loss of the certifying users.
        certified: whether the limit is what users were promised.
    """

    policy: Policy
    limit: float
    mean: float
    certified: bool

    def to_json(self) -> dict[str, Any]:
        """Returns plain values, without the maps: those are the bundle's."""
        policy = self.policy
        return {
            "certified": self.certified,
            "limit": self.limit,
            "mean": self.mean,
            "upper": [_finite(exit_.upper) for exit_ in policy.exits],
            "lower": [_finite(exit_.lower) for exit_ in policy.exits],
            "patience": policy.patience,
            "quorum": _finite(policy.quorum),
            "top_k": None if policy.top_k is None else _top_k(policy.top_k),
        }


class Audit(Protocol):
    """What is read of `rexit.runtime.Audit`: exits and c of the policy, and full depth's raw log-odds, [n]."""

    @property
    def exit(self) -> NDArray[np.int64]: ...

    @property
    def policy_c(self) -> NDArray[np.float32]: ...

    @property
    def full_log_odds(self) -> NDArray[np.float32]: ...


@dataclass(frozen=True)
class Limits:
    """What a service watches.

    Attributes:
        loss: the loss.
        of: name of the certified metric that it stands for.
        full: the last head's own map.
        rules: the policy, then more careful ones.
        sha256: digest of policy.json.
    """

    loss: Loss
    of: str
    full: ExitPolicy
    rules: tuple[Rule, ...]
    sha256: str

    def to_json(self) -> dict[str, Any]:
        """Returns the value of `watch`."""
        return {
            "loss": self.loss.name,
            "of": self.of,
            "full": {"a": self.full.a, "b": self.full.b},
            "rules": [rule.to_json() for rule in self.rules],
        }

    def sentence(self, rule: int = 0) -> str:
        """Returns what is tested, for a rule by its number."""
        watched = self.rules[rule]
        promise = (
            "as certified"
            if watched.certified
            else f"an upper bound of the {watched.mean:.4g} that the users had who certified the limit of {self.of}"
        )
        return f"{self.loss.title}: a mean loss of at most {watched.limit:.4g} against full depth, {promise}"

    def loss_of(self, slate: AuditedSlate) -> float:
        """Returns the loss of an audited slate; nan if it has none, for instance because it is too short."""
        return self.loss.of_slate(np.array(slate.policy, np.float32), slate.full(self.full))

    def slate(self, user: Id, items: Sequence[Id], audit: Audit, *, rule: int = 0, time: float | None = None) -> AuditedSlate:
        """Returns an audit as `Watch` takes it and the log has it.

        Args:
            user: the user's id.
            items: ids of the candidates of the request, n of them.
            audit: from `Session.audit`.
            rule: number of the rule that answered.
            time: of the audit, in seconds since 1970; None: now.
        """
        at = round(clock.time() if time is None else time, 3)
        values = audit.policy_c.tolist(), audit.full_log_odds.tolist(), audit.exit.tolist()
        return AuditedSlate(at, user, list(items), *values, rule, self.sha256)


def read_limits(bundle: Bundle) -> Limits:
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
        rules = tuple(Rule(with_rule(policy, rule), rule.limit, rule.mean, rule.certified) for rule in file.rules)
        full = ExitPolicy(file.full.a, file.full.b)
        if (problem := Policy((full,), 1, "").problem()) is not None:
            raise ValueError(f"full: {problem}")
        limits = Limits(Loss.parse(file.loss), file.of, full, rules, sha256)
    except (ValueError, InputError) as exc:
        raise BundleError(f"{path}: watch: {exc}: calibrate again") from exc
    if not rules or limits.rules[0].to_json() != replace(limits.rules[0], policy=policy).to_json():
        raise BundleError(f"{path}: watch: its first rule is not policy.json's: calibrate again")
    return limits


def with_rule(policy: Policy, rule: WatchedRule) -> Policy:
    """Returns the policy's maps with a recorded rule. Raises ValueError."""
    sides = zip(policy.exits, map(_threshold, rule.upper), map(_threshold, rule.lower), strict=True)
    exits = tuple(replace(e, upper=upper, lower=lower) for e, upper, lower in sides)
    ruled = replace(policy, exits=exits, patience=rule.patience, quorum=rule.quorum, top_k=rule.top_k)
    if (problem := ruled.problem()) is not None:
        raise ValueError(problem)
    return ruled


def _top_k(rule: TopK) -> dict[str, Any]:
    moves = {"rise": rule.rise, "fall": rule.fall}
    return {"k": rule.k, "ordered": rule.ordered, **{name: list(map(_finite, values)) for name, values in moves.items()}}


def _threshold(value: float | None) -> float:
    return math.inf if value is None else value


def _finite(number: float) -> float | None:
    return None if math.isinf(number) else float(np.float32(number))
