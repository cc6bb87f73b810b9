"""The search's policies: the likeliest to pass and ever cheaper ones, certified on users who had no part in choosing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr, ndtri

from rexit.calibration import certify
from rexit.calibration.evaluation import Evaluation, Outcome
from rexit.calibration.goal import Goal, top_k_rules
from rexit.calibration.maps import PlattMap
from rexit.calibration.search import Search, Space, StoppingRule
from rexit.format.bundle import ExitPolicy, Policy
from rexit.upkeep.audit.betting import exceeds

BUDGETS: tuple[float, ...] = (
    *(0.0003, 0.001, 0.003, 0.005, 0.007, 0.01, 0.015, 0.02, 0.03, 0.05, 0.07, 0.1),
    *(0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.75, 0.9, 1.0),
)
"""Shares of the allowed drop. The cheapest policy expected to stay within each may be tested."""

STEP = 0.97
"""Each policy that is tested costs at most this share of the one before it."""

AS_LIKELY = 0.9999
"""Policies are as likely to pass as another if their chance is at least this share of its; the cheapest of them is tested."""

MIN_CHANCE = 0.01
"""A policy less likely than this to pass is tested only if none is likelier."""

BIAS = 0.4
"""What an expected loss is off by, as a standard deviation, in shares of the allowed drop: it does not see where an early exit
ranks better than full depth."""

RESAMPLES = 200
"""Bootstrap draws for the spread of a metric over pairs."""

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


def explored(choosing: Evaluation, maps: Sequence[PlattMap], goal: Goal) -> Search:
    """Returns the search among the goal's rules, on the choosing users, after its exploration."""
    useful = [platt_map.useful for platt_map in maps]
    space = Space(choosing.c, useful, top_k_rules(choosing.c, choosing.traces, goal), places=goal.places)
    search = Search(choosing, space)
    search.explore()
    return search


def find_candidates(
    search: Search, choosing: Evaluation, maps: Sequence[PlattMap], variant_sha256: str, goal: Goal, users: Mapping[str, int]
) -> list[Candidate]:
    """Returns the policies to test, in this order (see `in_order`), of the cheapest for each budget.

    A fixed depth takes the place of a dynamic policy that does not save MIN_SAVING more. users: see `margin`.
    """
    fixed = {k: choosing.outcome(np.full(len(choosing.c), k)) for k, platt_map in enumerate(maps[:-1]) if platt_map.useful}
    candidates: list[Candidate] = []
    margins: list[float] = []
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
            stops = search.stops(trial.point) if depth is None else np.full(len(choosing.c), depth)
            margins.append(margin(choosing, choosing.score(stops), outcome.drops, goal, users))
    return [candidates[n] for n in in_order([candidate.outcome.cost_us for candidate in candidates], margins)]


def in_order(costs: Sequence[float], margins: Sequence[float]) -> list[int]:
    """Returns which policies to test, and in which order, as positions: the likeliest to pass, then of those that cost at most
    STEP of it the likeliest, and so on.

    After Pareto Testing (Laufer-Goldshtein et al., arXiv 2210.07913), which orders policies by their p-values on the users who
    choose. STEP, AS_LIKELY, MIN_CHANCE and BIAS are our choice: each test more may fail and end the sequence.

    Args:
        costs: of each policy.
        margins: by how many standard deviations each is expected to pass.
    """
    order: list[int] = []
    chances = log_ndtr(margins)
    left = list(range(len(costs)))
    while left:
        likeliest = max(chances[n] for n in left)
        if order and likeliest < np.log(MIN_CHANCE):
            break
        order.append(min((n for n in left if chances[n] >= likeliest + np.log(AS_LIKELY)), key=lambda n: costs[n]))
        left = [n for n in left if costs[n] <= STEP * costs[order[-1]] and costs[n] < costs[order[-1]]]
    return order


def margin(
    choosing: Evaluation, score: NDArray[np.float32], drops: Sequence[float], goal: Goal, users: Mapping[str, int]
) -> float:
    """Returns by how many standard deviations a policy is expected to pass its hardest test (see `certify.margin`).

    Its losses are taken to spread as the choosing users' do, around a mean between the expected one and theirs, each weighed by
    how sure it is.

    Args:
        choosing: the choosing users.
        score: what the policy ranks by, float32 [n].
        drops: what each of the goal's metrics is expected to lose.
        goal: what the policy must keep.
        users: by metric's name, how many users will test it.
    """
    judge, margins = choosing.judge, []
    for metric, expected in zip(goal.metrics, drops, strict=True):
        count = users[metric.name]
        if metric.bounds is None:
            low, high = judge.intervals([metric], score, RESAMPLES)[metric]
            spread = (high - low) / (2 * 1.96) * np.sqrt(judge.user_count(metric) / count)
            margins.append((goal.max_drop - expected) / max(spread, 1e-12) + ndtri(goal.error))
            continue
        losses = judge.losses(metric, score)
        error, bias = losses.var() / len(losses), (BIAS * goal.max_drop) ** 2
        shifted = (losses + (expected - losses.mean()) * error / (error + bias)).clip(*metric.bounds)
        margins.append(certify.margin(shifted, metric.bounds, goal.max_drop, count, goal.error))
        if (tail := goal.tail) is not None:
            observed = float(np.mean(exceeds(losses, tail.loss)))
            margins.append(certify.tail_margin(observed, tail.share, count, goal.error))
    return float(min(margins))


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
