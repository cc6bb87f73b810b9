"""From traces and costs to a policy: everything in calibration that needs no session."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rexit.bundle import ExitPolicy, Policy
from rexit.calibration import platt
from rexit.calibration.evaluate import at_exit, evaluate
from rexit.calibration.plot import Point
from rexit.calibration.search import Rule, Search
from rexit.calibration.traces import Traces
from rexit.errors import InputError
from rexit.measure.costs import Costs
from rexit.ranking import auc_difference

BUDGETS = (0.0, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02)
"""AUC drops on the trade-off curve."""

MIN_SAVING = 0.01
"""A policy that saves less than this share of the cost is not worth having."""


@dataclass(frozen=True)
class Decision:
    """What calibration chose, and what it does on both splits.

    maps: one per exit. fixed: depth in layers -> always stopping there; the deepest is full depth. curve: budget -> its best
    policy. saving: the share of full depth's cost that the best policy within budget saves on validation, according to the cost
    model; `pays`: whether that policy was chosen. auc_difference: chosen minus full depth on the test split, and the ends of its
    95 % interval.
    """

    policy: Policy
    maps: tuple[platt.PlattMap, ...]
    chosen: Point
    fixed: Mapping[int, Point]
    curve: Mapping[float, Point]
    saving: float
    pays: bool
    auc_difference: tuple[float, float, float]


def decide(
    validation: Traces, test: Traces, costs: Costs, depths: tuple[int, ...], variant_sha256: str, max_auc_drop: float = 0.002
) -> Decision:
    """Fits the maps, searches on validation, checks on test. depths: of each exit, in layers.

    1. A Platt map per exit, on validation.
    2. The cheapest policy on validation whose AUC is at least full depth's minus `max_auc_drop`. As the best of thousands, it
       looks better on that split than it is, the more so the fewer the pairs: nothing from the test split enters the choice, and
       the test split's numbers are the ones to believe.
    3. If it saves less than 1 %, the policy is full depth, with the maps kept.

    Raises InputError for a drop outside [0, 0.5).
    """
    if not 0 <= max_auc_drop < 0.5:
        raise InputError(f"max AUC drop {max_auc_drop}, expected a number from 0 to below 0.5")
    maps = tuple(platt.fit(validation.log_odds[:, k], validation.liked) for k in range(len(depths)))
    full = _policy(maps, None, variant_sha256)
    search = Search(validation, full.calibrated(validation.log_odds), [m.useful for m in maps], costs)
    search.explore()
    found = search.trade_off({*BUDGETS, max_auc_drop})
    best = found[max_auc_drop]
    saving = 1 - best.cost_us / search.full.cost_us
    pays = saving >= MIN_SAVING
    policy = _policy(maps, best.rule, variant_sha256) if pays else full

    def point(policy: Policy, exit: int | None = None) -> Point:
        both = [
            evaluate(split, policy, depths, costs, None if exit is None else np.full(len(split), exit, np.int64))
            for split in (validation, test)
        ]
        return Point(*both)

    return Decision(
        policy,
        maps,
        point(policy),
        {depth: point(full, k) for k, depth in enumerate(depths)},
        {budget: point(_policy(maps, f.rule, variant_sha256)) for budget, f in found.items()},
        saving,
        pays,
        auc_difference(scores(policy, test), scores(full, test), test.users, test.liked),
    )


def back_to_full_depth(decision: Decision, depths: tuple[int, ...]) -> Decision:
    """The same decision with full depth as its policy."""
    last = decision.fixed[depths[-1]]
    policy = _policy(decision.maps, None, decision.policy.variant_sha256)
    return Decision(policy, decision.maps, last, decision.fixed, decision.curve, decision.saving, False, (0.0, 0.0, 0.0))


def scores(policy: Policy, traces: Traces) -> NDArray[np.float32]:
    """What pairs are ranked by: each one's c at the exit where the policy stops it, float32 [n]."""
    return at_exit(policy.calibrated(traces.log_odds), policy.stops(traces.log_odds, traces.offsets))


def _policy(maps: tuple[platt.PlattMap, ...], rule: Rule | None, variant_sha256: str) -> Policy:
    if rule is None:
        return Policy(tuple(ExitPolicy(m.a, m.b) for m in maps), 1, variant_sha256)
    exits = [ExitPolicy(m.a, m.b, u, low) for m, u, low in zip(maps[:-1], rule.upper, rule.lower, strict=True)]
    return Policy((*exits, ExitPolicy(maps[-1].a, maps[-1].b)), rule.patience, variant_sha256)
