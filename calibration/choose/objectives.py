"""Several objectives: each has a map of its own at every exit, and a declared utility combines them into one log-odds.

1. The utility's weights are options: what a click or a like is worth is a business decision.
2. Platt maps, one for each exit and objective, are fitted on the choosing users' known labels; unknown labels are left out. The
   search gets maps cross-fitted by user, as with one objective.
3. The utility's log-odds x, by `rexit.bundle.policy`, is comparable between exits, so the exits' own maps are a = 1 and b =
   0. Everything else reads x as the log-odds of one head: thresholds, top-k, quorum, certificate.
4. For NDCG the gain of a pair is the utility of its labels, and an unknown label counts as no. For AUC a pair is liked if its
   labels are worth more than none at all. The search expects a pair to be worth its utility at full depth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rexit.bundle import ExitPolicy, Policy
from rexit.bundle.policy import utility_log_odds, weights_problem
from rexit.calibration.choose import platt
from rexit.calibration.choose.maps import OWN, Choice
from rexit.calibration.choose.platt import FOLDS, PlattMap
from rexit.calibration.record.traces import Traces
from rexit.errors import InputError


@dataclass(frozen=True)
class ObjectiveMaps:
    """The maps that turn the objectives' log-odds into the utility's.

    Attributes:
        utility: the weights, by objective.
        maps: by exit, then by objective.
    """

    utility: Mapping[str, float]
    maps: tuple[tuple[PlattMap, ...], ...]

    def probabilities(self, log_odds: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns each objective's calibrated probability, float32 [n, E, K], from raw log-odds of the same shape."""
        return utility_log_odds(list(self.utility.values()), self._pairs(), log_odds)[1]

    def apply(self, traces: Traces) -> Traces:
        """Returns the traces with the utility's log-odds, float32 [n, E]."""
        return replace(traces, log_odds=utility_log_odds(list(self.utility.values()), self._pairs(), traces.log_odds)[0])

    def on(self, policy: Policy) -> Policy:
        """Returns a policy on the utility's log-odds as one on the variant's, with the utility and its maps."""
        exits = tuple(replace(e, objectives=pairs) for e, pairs in zip(policy.exits, self._pairs(), strict=True))
        return replace(policy, exits=exits, utility=self.utility)

    def useful(self) -> tuple[bool, ...]:
        """Returns for each exit whether some objective with a weight can be ranked there."""
        weights = list(self.utility.values())
        return tuple(any(m.useful for m, w in zip(of_exit, weights, strict=True) if w) for of_exit in self.maps)

    def _pairs(self) -> list[tuple[tuple[float, float], ...]]:
        return [tuple((m.a, m.b) for m in of_exit) for of_exit in self.maps]


def weights_of(utility: Mapping[str, float] | None, objectives: Sequence[str]) -> dict[str, float]:
    """Returns a utility's weights in the order of the variant's objectives, rounded to float32; empty for one objective.

    Args:
        utility: by objective; None: all weigh 1.
        objectives: the variant's names; empty: there is one objective.

    Raises:
        InputError: for other names than the objectives', and for weights that no utility may have.
    """
    if not objectives:
        if utility:
            raise InputError(f"utility {', '.join(utility)}: the bundle has a single objective")
        return {}
    if utility is None:
        return dict.fromkeys(objectives, 1.0)
    if set(utility) != set(objectives):
        raise InputError(f"utility has {', '.join(utility) or 'no weights'}, expected {', '.join(objectives)}")
    if (problem := weights_problem(utility)) is not None:
        raise InputError(problem)
    return {name: float(np.float32(utility[name])) for name in objectives}


def fit(traces: Traces, utility: Mapping[str, float]) -> ObjectiveMaps:
    """Returns the maps of each exit and objective.

    Args:
        traces: raw log-odds [n, E, K], with labels.
        utility: the weights, by objective, in the variant's order.

    Raises:
        InputError: if an objective's known labels are all the same, or there are none.
    """
    labels = traces.objectives
    assert labels is not None
    columns = []
    for n, name in enumerate(utility):
        known = labels[:, n] >= 0
        yes = labels[known, n] == 1
        if not yes.any() or yes.all():
            kind = "unknown" if not len(yes) else "yes" if yes[0] else "no"
            raise InputError(f"validation: all labels of {name} are {kind} among the users who choose, expected both kinds")
        columns.append(platt.fit_all(traces.log_odds[known][:, :, n], yes))
    return ObjectiveMaps(utility, tuple(zip(*columns, strict=True)))


def cross_fit(traces: Traces, utility: Mapping[str, float]) -> Traces:
    """Returns the traces with the utility's log-odds by maps that have not seen the pair's user, or by those of all users if the
    other users lack a label."""
    log_odds = np.empty(traces.log_odds.shape[:2], np.float32)
    parts = traces.users % FOLDS
    for part in range(FOLDS):
        inside = parts == part
        if not inside.any():
            continue
        try:
            maps = fit(_pairs(traces, ~inside), utility)
        except InputError:
            maps = fit(traces, utility)
        log_odds[inside] = maps.apply(_pairs(traces, inside)).log_odds
    return replace(traces, log_odds=log_odds)


def choice(maps: ObjectiveMaps, log_odds: NDArray[np.float32]) -> Choice:
    """Returns the exits' own maps, which leave the utility's log-odds as they are. log_odds: the utility's, float32 [n, E]."""
    exits = tuple(PlattMap(ExitPolicy().a, ExitPolicy().b, useful) for useful in maps.useful())
    return Choice(OWN, exits, exits, log_odds, log_odds)


def _pairs(traces: Traces, which: NDArray[np.bool_]) -> Traces:
    """Some pairs' log-odds and labels, without their slates."""
    labels = traces.objectives
    assert labels is not None
    return replace(traces, log_odds=traces.log_odds[which], objectives=labels[which])
