"""A floor under probabilities: "with 95 % confidence, queries like these keep at least 95 % of their relevant candidates".

After conformal risk control (Angelopoulos et al., arXiv 2208.02814), with the certificate's test, which holds for one calibration
and not on average over many:

1. A user's loss at a floor is the share of the user's relevant candidates that the policy answers with a c below it. A user
   without any has none.
2. The users who choose say which floors are tested: quantiles of their relevant candidates' c.
3. The users who certify test them in ascending order up to the first that fails, as a higher floor loses more. The last that
   passes is the floor (as in `certify.fixed_sequence`).
4. The same users chose the policy. So each policy that they could have chosen has its share of the level.
5. A floor below which no larger share of the others lies than of the relevant candidates that may be lost separates nothing.
   Then there is none.

Where a policy stops a candidate does not depend on the floor: an earlier stop would be another policy.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rexit.calibration import certify
from rexit.calibration.evaluation import at_exit
from rexit.calibration.traces import Traces
from rexit.data.ranking import bootstrap
from rexit.format.bundle import Policy

FLOORS = 300
"""Quantiles that may be tested, up to FARTHEST times the share that may be lost."""
FARTHEST = 4


@dataclass(frozen=True)
class Floor:
    """What calibration says of a floor.

    Attributes:
        recall: the share of its relevant candidates that a query keeps on average.
        confidence: that it does.
        users: how many certified it: those with a relevant candidate.
        c: the floor; None: there is none.
        left_out: share of the other candidates that is below the highest floor that passed; None: none passed.
        needed: about how many users would certify a floor that loses nothing.
        test: share of a test user's relevant candidates that is kept, with its 95 % interval; None without a floor.
        test_left_out: share of the test split's other candidates that is left out; likewise.
    """

    recall: float
    confidence: float
    users: int
    c: float | None
    left_out: float | None
    needed: float
    test: tuple[float, float, float] | None = None
    test_left_out: float | None = None


def promised(floor: Floor | None) -> dict[str, Any] | None:
    """Returns `floor` of policy.json; None: there is none."""
    if floor is None or floor.c is None:
        return None
    return {"c": floor.c, "recall": floor.recall, "confidence": floor.confidence, "users": floor.users}


def find_floor(
    policy: Policy, choosing: Traces, certifying: Traces, test: Traces, recall: float, confidence: float, policies: int = 1
) -> Floor:
    """Returns the floor of a policy.

    Args:
        policy: as it will be written.
        choosing: traces of the users who choose.
        certifying: of those who certify.
        test: of those who say what it does.
        recall: the share to keep, 0.5 to below 1.
        confidence: that it is kept, 0.5 to below 1.
        policies: how many policies the certifying users chose among.
    """
    limit, level, c = 1 - recall, (1 - confidence) / policies, answers(policy, certifying)
    users = len(losses(certifying, c, -np.inf))
    needed = certify.users_needed(np.zeros(1), (0, 1), limit, level)
    floor = highest_floor(answers(policy, choosing)[choosing.liked], certifying, c, limit, level)
    if floor is None:
        return Floor(recall, confidence, users, None, None, needed)
    left_out = float((c[~certifying.liked] < floor).mean())
    if not left_out > limit:
        return Floor(recall, confidence, users, None, left_out, needed)
    c = answers(policy, test)
    recalls = 1 - losses(test, c, floor)
    low, high = np.percentile(bootstrap(recalls, np.ones(len(recalls))), [2.5, 97.5])
    shown = (float(recalls.mean()), float(low), float(high))
    return Floor(recall, confidence, users, floor, left_out, needed, shown, float((c[~test.liked] < floor).mean()))


def highest_floor(
    proposed_by: NDArray[np.float32], certifying: Traces, c: NDArray[np.float32], limit: float, level: float
) -> float | None:
    """Returns the highest floor before the first that fails; None: the lowest fails.

    Args:
        proposed_by: c of the choosing users' relevant candidates, float32.
        certifying: traces of the users who certify.
        c: theirs, float32 [n].
        limit: the mean loss that they test.
        level: of each test.
    """
    floors = np.unique(np.quantile(proposed_by, np.linspace(0, min(1, FARTHEST * limit), FLOORS)).astype(np.float32))

    def passes(floor: float) -> bool:
        return certify.p_value(losses(certifying, c, floor), (0, 1), limit, level) <= level

    return max(takewhile(passes, floors.tolist()), default=None)


def answers(policy: Policy, traces: Traces) -> NDArray[np.float32]:
    """Returns each pair's c where the policy stops it, float32 [n]."""
    return at_exit(policy.calibrated(traces.log_odds), policy.stops(traces.log_odds, traces.offsets))


def losses(traces: Traces, c: NDArray[np.float32], floor: float) -> NDArray[np.float64]:
    """Returns the share of relevant pairs below the floor of each user with any, float64 [users]."""
    relevant = np.bincount(traces.users[traces.liked], minlength=traces.user_count)
    below = np.bincount(traces.users[traces.liked & (c < floor)], minlength=traces.user_count)
    return np.asarray(below[relevant > 0] / relevant[relevant > 0])
