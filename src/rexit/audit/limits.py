"""`watch` in report.json: the loss that a service watches under the policy, and its limit.

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

from typing import Any

import msgspec

from rexit.audit.betting import Tail
from rexit.audit.losses import Loss
from rexit.bundle import Bundle
from rexit.bundle.files import read_json
from rexit.bundle.typed import typed
from rexit.errors import BundleError, InputError

REPORT_FILE = "report.json"


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
