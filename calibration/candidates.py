"""The search's policies: one for each of a few budgets, certified on users who had no part in choosing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from rexit.audit.betting import exceeds
from rexit.bundle import ExitPolicy, Policy
from rexit.calibration import certify
from rexit.calibration.choose.evaluate import Evaluation, Outcome
from rexit.calibration.choose.platt import PlattMap
from rexit.calibration.choose.search import Search, StoppingRule
from rexit.calibration.goal import Goal

BUDGETS: tuple[float, ...] = (0.03, 0.1, 0.25, 0.5, 0.75, 1.0)
"""Shares of the allowed drop. Each gets a policy: the sequence that is tested for a certificate, and the curve."""

TAIL_OF = "tail of "
"""Before a metric's name: the p-value of its tail."""

MIN_SAVING = 0.01
"""A policy must save this share of the cost, against full depth and against a fixed depth, to be worth having."""


@dataclass(frozen=True)
class Candidate:
    """A policy that may be chosen.

    Attributes:
        policy: as it would be written.
        fixed: the exit at which it stops every candidate; None for a dynamic policy.
        budget: the expected drop that the search allowed.
        outcome: what it does on the choosing users.
        p_values: by metric's name, for the hypothesis that it drops by more than allowed, from the certifying users; with TAIL_OF
            before it, that more users lose much than allowed. All must be small, so each has the whole level.
        certified: whether the certifying users confirm the policy.
    """

    policy: Policy
    fixed: int | None
    budget: float
    outcome: Outcome
    p_values: Mapping[str, float] = field(default_factory=dict)
    certified: bool = False

    @property
    def p_value(self) -> float:
        """The largest p-value: for the hypothesis that some metric drops by more than allowed."""
        return max(self.p_values.values())


def find_candidates(
    search: Search, choosing: Evaluation, maps: Sequence[PlattMap], variant_sha256: str, goal: Goal
) -> list[Candidate]:
    """Returns the cheapest policy for each budget, careful ones first, without repetitions.

    A fixed depth takes the place of a dynamic policy that does not save MIN_SAVING more.
    """
    fixed = {k: choosing.outcome(np.full(len(choosing.c), k)) for k, platt_map in enumerate(maps[:-1]) if platt_map.useful}
    candidates: list[Candidate] = []
    for budget, trial in search.trade_off(share * goal.max_drop for share in BUDGETS).items():
        max_us = trial.outcome.cost_us / (1 - MIN_SAVING)
        depth = next((k for k, outcome in fixed.items() if outcome.drop <= budget and outcome.cost_us <= max_us), None)
        if depth is not None:
            policy, outcome = policy_of(maps, variant_sha256, _fixed_rule(depth, len(maps))), fixed[depth]
        elif trial.point != search.full.point:
            policy, outcome = policy_of(maps, variant_sha256, trial.rule), trial.outcome
        else:
            continue
        if not candidates or policy != candidates[-1].policy:  # a larger budget may buy nothing
            candidates.append(Candidate(policy, depth, budget, outcome))
    return candidates


def policy_of(maps: Sequence[PlattMap], variant_sha256: str, rule: StoppingRule | None = None) -> Policy:
    """Returns the policy of some maps and a rule. rule: None: full depth."""
    rule = rule or _fixed_rule(len(maps) - 1, len(maps))
    sides = zip(maps, (*rule.upper, np.inf), (*rule.lower, np.inf), (*rule.keep, 0), strict=True)
    exits = tuple(ExitPolicy(m.a, m.b, upper, lower, m.earlier, keep=kept) for m, upper, lower, kept in sides)
    return Policy(exits, rule.patience, variant_sha256, rule.quorum, rule.top_k)


def _fixed_rule(depth: int, exits: int) -> StoppingRule:
    thresholds = tuple(0.0 if k == depth else np.inf for k in range(exits - 1))
    return StoppingRule(1, thresholds, thresholds, (0,) * (exits - 1))


def certify_in_order(candidates: Sequence[Candidate], certifying: Evaluation, goal: Goal) -> list[Candidate]:
    """Returns the candidates with their p-values, certified up to the first that fails, in the given order."""
    results = [replace(candidate, p_values=p_values(certifying, candidate.policy, goal)) for candidate in candidates]
    passed = certify.fixed_sequence([candidate.p_value for candidate in results], goal.error)
    return [replace(candidate, certified=n < passed) for n, candidate in enumerate(results)]


def p_values(certifying: Evaluation, policy: Policy, goal: Goal) -> dict[str, float]:
    """Returns a policy's p-values, as a Candidate has them."""
    score, judge = score_of(certifying, policy), certifying.judge
    means = {
        metric.name: judge.chance_above(metric, score, goal.max_drop)
        if metric.bounds is None
        else certify.p_value(judge.losses(metric, score), metric.bounds, goal.max_drop, goal.error)
        for metric in goal.metrics
    }
    if (tail := goal.tail) is None:
        return means
    bounded = [metric for metric in goal.metrics if metric.bounds is not None]
    return means | {
        TAIL_OF + metric.name: certify.tail_p_value(judge.losses(metric, score), tail.share, tail.loss) for metric in bounded
    }


def score_of(evaluation: Evaluation, policy: Policy) -> NDArray[np.float32]:
    """Returns what a policy ranks by, float32 [n]."""
    return evaluation.score(policy.stops(evaluation.traces.log_odds, evaluation.traces.offsets))


def users_needed(candidates: Sequence[Candidate], certifying: Evaluation, goal: Goal) -> float | None:
    """Returns about how many users would certify the first candidate that failed: the most over the metrics that failed and have
    a value per user. None if no candidate failed, or no such metric."""
    failed = next((candidate for candidate in candidates if not candidate.certified), None)
    if failed is None:
        return None
    score, needed = score_of(certifying, failed.policy), []
    for metric in goal.metrics:
        if metric.bounds is None:
            continue
        losses = certifying.judge.losses(metric, score)
        if failed.p_values[metric.name] > goal.error:
            needed.append(certify.users_needed(losses, metric.bounds, goal.max_drop, goal.error))
        if (tail := goal.tail) is not None and failed.p_values[TAIL_OF + metric.name] > goal.error:
            observed = float(np.mean(exceeds(losses, tail.loss)))
            needed.append(certify.tail_users_needed(observed, tail.share, goal.error))
    return max(needed, default=None)


def cheapest_certified(candidates: Sequence[Candidate], full_us: float) -> Candidate | None:
    """Returns the candidate to write; None if nothing certified saves enough of full depth's `full_us`."""
    certified = [candidate for candidate in candidates if candidate.certified]
    best = min(certified, key=lambda candidate: candidate.outcome.cost_us, default=None)
    return best if best is not None and best.outcome.cost_us <= (1 - MIN_SAVING) * full_us else None
