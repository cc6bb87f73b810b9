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

import time as clock
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from rexit.audit.betting import Tail
from rexit.audit.log import AuditedSlate
from rexit.audit.losses import Loss
from rexit.bundle import Bundle, Id
from rexit.bundle.files import read_json
from rexit.bundle.typed import typed
from rexit.errors import BundleError, InputError

if TYPE_CHECKING:
    from rexit.runtime import Audit

REPORT_FILE = "report.json"


class _Watch(msgspec.Struct, frozen=True):
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


@dataclass(frozen=True)
class AuditLimits:
    """What a service watches.

    Attributes:
        loss: the loss.
        of: name of the certified metric that it replaces.
        limit: the most that the mean loss may be.
        mean: the mean loss of the certifying users.
        certified: whether the limit is what users were promised.
        sha256: digest of policy.json.
        tail: at most this share of users may lose more than its loss on a slate; None: no tail was certified.
    """

    loss: Loss
    of: str
    limit: float
    mean: float
    certified: bool
    sha256: str
    tail: Tail | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the value of `watch`."""
        return {
            "loss": self.loss.name,
            "of": self.of,
            "limit": self.limit,
            "mean": self.mean,
            "certified": self.certified,
            "tail": None if self.tail is None else asdict(self.tail),
        }

    def sentence(self) -> str:
        """Returns what is tested, in a sentence."""
        promise = "as certified" if self.certified else f"{self.mean:.4g} at calibration"
        return f"watching the loss of {self.loss.title}: alarm above {self.limit:.4g} ({promise})"

    def loss_of(self, slate: AuditedSlate) -> float:
        """Returns the loss of an audited slate; nan if it has none, for instance because it is too short."""
        return self.loss.of_slate(np.array(slate.policy, np.float32), np.array(slate.full, np.float32))

    def slate(self, user: Id, items: Sequence[Id], audit: Audit, *, time: float | None = None) -> AuditedSlate:
        """Returns an audit in the form that `Watch` and the log take.

        Args:
            user: the user's id.
            items: ids of the request's candidates, n of them.
            audit: from `Session.audit`.
            time: when it was audited, in seconds since 1970; None: now.
        """
        at = round(clock.time() if time is None else time, 3)
        values = audit.policy_c.tolist(), audit.full_c.tolist(), audit.exit.tolist()
        return AuditedSlate(at, user, list(items), *values, self.sha256)


def read_limits(bundle: Bundle) -> AuditLimits:
    """Returns what calibration recorded for the bundle's policy.

    Raises:
        BundleError: There is no report, or it is another variant's or policy's.
        InputError: The policy stops nothing early, or was calibrated before there were limits.
    """
    path, sha256 = bundle.folder / REPORT_FILE, bundle.policy_sha256
    if sha256 is None:
        raise InputError(f"{bundle.folder}: has no policy to audit: `rexit calibrate --slates LOG` makes one of such a log")
    report = read_json(path)
    for key, name, digest in (("variant_sha256", "variant", bundle.variant_sha256), ("policy_sha256", "policy", sha256)):
        if report.get(key) != digest:
            raise BundleError(f"{path}: made for another {name} than this one: calibrate again")
    if "watch" not in report:
        raise InputError(f"{path}: has no `watch`, the limit of what is audited: calibrate again")
    watch = report["watch"]
    if watch is None:
        raise InputError(f"{path}: the policy runs every candidate to full depth, there is nothing to audit")
    file = typed(watch, _Watch, str(path), at="watch")
    try:
        return AuditLimits(Loss.parse(file.loss), file.of, file.limit, file.mean, file.certified, sha256, file.tail)
    except (ValueError, InputError) as exc:
        raise BundleError(f"{path}: watch: {exc}: calibrate again") from exc
