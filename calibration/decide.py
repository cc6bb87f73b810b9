"""From traces and costs to a policy: all of calibration that needs no session.

What chooses is not what judges:

    validation, one part of the users      maps (cross-fitted) and what they read, thresholds, rivals
    validation, the other users            the certificate
    test                                   the final table, read once
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from rexit.audit.limits import AuditLimits
from rexit.bundle import ExitPolicy, Policy, TopK
from rexit.calibration import certify, metrics, watch
from rexit.calibration.choose import maps as choice_of_maps
from rexit.calibration.choose import objectives, platt, rivals
from rexit.calibration.choose.evaluate import Evaluation, Outcome
from rexit.calibration.choose.objectives import ObjectiveMaps
from rexit.calibration.choose.search import Rule, Search, Space
from rexit.calibration.comparison import Gain, Row, TestSplit
from rexit.calibration.metrics import Metric
from rexit.calibration.record.traces import Traces, split_users
from rexit.errors import InputError
from rexit.measure.costs import Costs, depth_name

BUDGETS = (0.1, 0.25, 0.5, 0.75, 1.0)
"""Shares of the allowed drop. Each gets a policy: the sequence that is tested for a certificate, and the curve."""

MIN_SAVING = 0.01
"""A policy that saves less than this share of the cost is not worth having: against full depth, and against a fixed depth."""

TOP_K_ERRORS = (0.01, 0.05, 0.1, 0.2, 0.4)
"""How often a candidate's c may leave its bounds."""

FULL_DEPTH, ALL_HEADS = "full depth", "full depth, all heads"
"""Rows of the test split: the full model, and its last exit with maps that read all heads."""

TABLE_METRICS = ("ndcg@10", "user-auc", "auc", "logloss")
"""Metrics in every table."""


@dataclass(frozen=True)
class Goal:
    """What a policy must keep.

    Attributes:
        metrics: none of them may drop by more than `max_drop` against full depth.
        max_drop: in each metric's own unit.
        confidence: of the guarantee.
        top_k: how many candidates of a slate users are shown, for the top-k rule; None: all.
    """

    metrics: tuple[Metric, ...]
    max_drop: float = 0.01
    confidence: float = 0.95
    top_k: int | None = None

    @property
    def error(self) -> float:
        """1 minus the confidence."""
        return 1 - self.confidence

    def check(self) -> None:
        """Raises InputError for numbers that cannot work."""
        if not self.metrics:
            raise InputError("no metric, expected at least one")
        if not 0 < self.max_drop < 0.5:
            raise InputError(f"max drop {self.max_drop}, expected more than 0 and less than 0.5")
        if not 0.5 <= self.confidence < 1:
            raise InputError(f"confidence {self.confidence}, expected 0.5 to below 1")
        if self.top_k is not None and self.top_k < 1:
            raise InputError(f"top k {self.top_k}, expected at least 1")


@dataclass(frozen=True)
class DecideOptions:
    """How to decide.

    Attributes:
        seed: divides the validation users into those who choose and those who certify.
        rivals: also tune other ways to stop, for the table.
        maps: the heads that an exit's c reads, OWN, ALL or AUTO of `maps`.
        utility: with several objectives, their weights, in the variant's order; then there is no choice of maps.
    """

    seed: int = 0
    maps: str = choice_of_maps.AUTO
    rivals: bool = False
    utility: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Candidate:
    """A policy that may be chosen.

    Attributes:
        policy: as it would be written.
        fixed: the exit at which it stops every candidate; None for a dynamic one.
        budget: the expected drop that the search allowed.
        outcome: on the choosing users.
        p_values: by metric's name, of the hypothesis that it drops by more than allowed; on the certifying users.
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
        """Of the hypothesis that some metric drops by more than allowed: the largest of all metrics."""
        return max(self.p_values.values())


@dataclass(frozen=True)
class Decision:
    """What calibration chose, and what it does.

    Attributes:
        goal: what the policy must keep.
        policy: the policy to write.
        maps: of each exit, as in the policy.
        choice: what maps there were to choose from.
        users: number of users, by part: `choosing`, `certifying`, `test`.
        tested: by metric's name, how many of the certifying users have a value.
        chosen: the candidate that `policy` is; None if that is full depth.
        candidates: all that were tested for a certificate, in that order.
        rows: of the test split; `full depth` first, then fixed depths, rivals, and `policy` last. Fixed depths are those of the
            chosen maps: if these read all heads, so does a row at the last exit, while `full depth` is the last head alone.
        curve: a row of the test split for each candidate.
        gains: over each fixed depth, if the policy is dynamic.
        saving: share of full depth's cost that the policy saves on the choosing users.
        users_needed: about how many users with a value would have certified the first candidate that failed (infinite: no
            number would); None if none failed, or it failed by metrics over pairs alone.
        watch: the losses and limits that a service watches; None if the policy runs every candidate to full depth.
        objectives: what makes the utility's log-odds, which the maps read; None: there is one objective.
    """

    goal: Goal
    policy: Policy
    maps: tuple[platt.PlattMap, ...]
    choice: choice_of_maps.Choice
    users: Mapping[str, int]
    tested: Mapping[str, int]
    chosen: Candidate | None
    candidates: tuple[Candidate, ...]
    rows: tuple[Row, ...]
    curve: tuple[Row, ...]
    gains: tuple[Gain, ...]
    saving: float
    users_needed: float | None
    watch: AuditLimits | None = None
    objectives: ObjectiveMaps | None = None


def decide(
    *,
    validation: Traces,
    test: Traces,
    costs: Costs,
    depths: Sequence[int],
    variant_sha256: str,
    goal: Goal,
    options: DecideOptions | None = None,
) -> Decision:
    """Chooses on one part of the validation split's users, certifies on the others, measures on test.

    1. Users are divided at random by `options.seed`: a third of them chooses, see `split_users`.
    2. A map per exit, see `maps`. The search gets maps cross-fitted by user; the policy gets those of all choosing users. What is
       lost is counted against the last head alone, whatever the maps read.
    3. For each of a few budgets up to `max_drop`, the cheapest policy that is expected to stay within it: a fixed depth, where no
       dynamic policy saves 1 % more.
    4. Learn then Test (Angelopoulos et al., arXiv 2110.01052): they are tested in this order, careful ones first, up to the first
       that fails.
    5. The cheapest that is certified; full depth, by its own head, where nothing saves 1 %.
    6. The test split: values and differences with intervals over users, against full depth, fixed depths, and rivals tuned to the
       chosen policy's budget.

    Args:
        validation, test: traces of the two splits; with several objectives, raw log-odds of each.
        costs: what a slate costs.
        depths: of each exit, in layers.
        variant_sha256: of the variant that the policy is for.
        goal: what the policy must keep.
        options: None: the defaults.

    Raises:
        InputError: for goals or labels that cannot work.
    """
    options = options or DecideOptions()
    goal.check()
    choosers, certifiers = split_users(validation, options.seed)
    of_objectives: ObjectiveMaps | None = None
    if options.utility:
        of_objectives = objectives.fit(choosers, options.utility)
        choosers = objectives.cross_fit(choosers, options.utility)
        certifiers, test = of_objectives.apply(certifiers), of_objectives.apply(test)
        choice = objectives.choice(of_objectives, choosers.log_odds)
    else:
        choice = choice_of_maps.choose(options.maps, choosers, goal.metrics)
    maps, useful = choice.maps, [platt_map.useful for platt_map in choice.maps]

    def evaluate(traces: Traces, of_metrics: Sequence[Metric]) -> Evaluation:
        own = platt.apply(choice.own, traces.log_odds)
        return Evaluation(traces, platt.apply(maps, traces.log_odds), depths, costs, of_metrics, own[:, -1])

    choosing = Evaluation(choosers, choice.c, depths, costs, goal.metrics, choice.own_c[:, -1])
    certifying = evaluate(certifiers, goal.metrics)

    search = Search(choosing, Space(choice.c, useful, top_k_rules(choice.c, choosers, goal)))
    search.explore()
    candidates = _test_candidates(_find_candidates(search, choosing, maps, variant_sha256, goal), certifying, goal)
    full_us = search.full.outcome.cost_us
    chosen = _cheapest_certified(candidates, full_us)
    policy = chosen.policy if chosen else _policy(choice.own, variant_sha256)
    budget = chosen.budget if chosen else goal.max_drop

    on_test = evaluate(test, _table_metrics(goal, bool(options.utility)))
    split = TestSplit(on_test)
    stops = policy.stops(test.log_odds, test.offsets)
    last = len(depths) - 1
    rows = [split.full_row(FULL_DEPTH)]
    rows += [split.row(depth_name(depths[k]), np.full(len(test), k)) for k in range(last)]
    if choice.reads == choice_of_maps.ALL:
        rows.append(split.row(ALL_HEADS, np.full(len(test), last)))
    if options.rivals:
        rows += [split.row(name, rival(test.log_odds, on_test.c)) for name, rival in rivals.tuned(choosing, budget).items()]
    rows.append(split.row("policy", stops) if chosen else replace(rows[0], name="policy"))
    return Decision(
        goal=goal,
        policy=policy if of_objectives is None else of_objectives.on(policy),
        maps=maps if chosen else choice.own,
        choice=choice,
        users={"choosing": choosers.user_count, "certifying": certifiers.user_count, "test": test.user_count},
        tested={metric.name: certifying.judge.user_count(metric) for metric in goal.metrics},
        chosen=chosen,
        candidates=tuple(candidates),
        rows=tuple(rows),
        curve=tuple(
            split.row(f"drop {candidate.budget:g}", candidate.policy.stops(test.log_odds, test.offsets))
            for candidate in candidates
        ),
        gains=split.gains(stops, choosing) if chosen and chosen.fixed is None else (),
        saving=1 - chosen.outcome.cost_us / full_us if chosen else 0.0,
        users_needed=_users_needed(candidates, certifying, goal),
        watch=watch.limits(
            _policy_and_more_careful(candidates, chosen),
            certifying,
            choice.own[-1],
            goal.metrics,
            goal.max_drop,
            goal.error / max(1, len(candidates)),  # the policy was chosen among them
        ),
        objectives=of_objectives,
    )


def back_to_full_depth(decision: Decision) -> Decision:
    """Returns the same decision with full depth as its policy; `saving` remains what the other one promised."""
    own = decision.choice.own
    policy = replace(
        _policy(own, decision.policy.variant_sha256), made_on=decision.policy.made_on, prior_shift=decision.policy.prior_shift
    )
    if decision.objectives is not None:
        policy = decision.objectives.on(policy)
    full = replace(decision.rows[0], name="policy")
    return replace(decision, policy=policy, maps=own, chosen=None, rows=(*decision.rows[:-1], full), gains=(), watch=None)


def top_k_rules(c: NDArray[np.float32], traces: Traces, goal: Goal) -> list[TopK | None]:
    """Returns the top-k rules to search among: None, and for each error rate the bounds that c leaves that often.

    Args:
        c: calibrated log-odds, float32 [n, E].
        traces: of the same pairs.
        goal: its `top_k` is the rules' k; None: no rules.

    Raises:
        InputError: if no slate has more than k candidates.
    """
    if goal.top_k is None:
        return [None]
    largest = int(np.diff(traces.offsets).max())
    if goal.top_k >= largest:
        raise InputError(f"top k {goal.top_k}, expected less than the largest slate's {largest} candidates")
    moves = c[:, -1:] - c[:, :-1]
    rules: list[TopK | None] = [None]
    for rate in TOP_K_ERRORS:  # half of it on each side
        low, high = np.quantile(moves, (rate / 2, 1 - rate / 2), axis=0).astype(np.float32)
        rise, fall = np.maximum(high, 0).tolist(), np.maximum(-low, 0).tolist()
        rules += [TopK(goal.top_k, ordered, tuple(rise), tuple(fall)) for ordered in (True, False)]
    return rules


def _table_metrics(goal: Goal, several: bool) -> tuple[Metric, ...]:
    """A utility is no probability of one label, so it has no log loss."""
    names = [metric.name for metric in goal.metrics]
    others = [name for name in TABLE_METRICS if name not in names and not (several and name == "logloss")]
    return (*goal.metrics, *map(metrics.parse, others))


def _find_candidates(
    search: Search, choosing: Evaluation, maps: Sequence[platt.PlattMap], variant_sha256: str, goal: Goal
) -> list[Candidate]:
    """One policy for each budget, careful ones first; without repetitions."""
    fixed = {k: choosing.outcome(np.full(len(choosing.c), k)) for k, platt_map in enumerate(maps[:-1]) if platt_map.useful}
    candidates: list[Candidate] = []
    for budget, trial in search.trade_off(share * goal.max_drop for share in BUDGETS).items():
        most_us = trial.outcome.cost_us / (1 - MIN_SAVING)
        depth = next((k for k, outcome in fixed.items() if outcome.drop <= budget and outcome.cost_us <= most_us), None)
        if depth is not None:
            candidate = Candidate(_policy(maps, variant_sha256, _fixed_rule(depth, len(maps))), depth, budget, fixed[depth])
        elif trial.point != search.full.point:
            candidate = Candidate(_policy(maps, variant_sha256, trial.rule), None, budget, trial.outcome)
        else:
            continue
        if not candidates or candidate.policy != candidates[-1].policy:  # a larger budget may buy nothing
            candidates.append(candidate)
    return candidates


def _fixed_rule(depth: int, exits: int) -> Rule:
    thresholds = tuple(0.0 if k == depth else np.inf for k in range(exits - 1))
    return Rule(1, thresholds, thresholds)


def _policy(maps: Sequence[platt.PlattMap], variant_sha256: str, rule: Rule | None = None) -> Policy:
    """The rule with its maps; None: full depth."""
    if rule is None:
        rule = Rule(1, (np.inf,) * (len(maps) - 1), (np.inf,) * (len(maps) - 1))
    sides = zip(maps, (*rule.upper, np.inf), (*rule.lower, np.inf), strict=True)
    exits = tuple(ExitPolicy(m.a, m.b, upper, lower, m.earlier) for m, upper, lower in sides)
    return Policy(exits, rule.patience, variant_sha256, rule.quorum, rule.top_k)


def _test_candidates(candidates: Sequence[Candidate], certifying: Evaluation, goal: Goal) -> list[Candidate]:
    """The candidates with their p-values, certified up to the first that fails, in the order given."""
    tested = [replace(candidate, p_values=_p_values(certifying, candidate.policy, goal)) for candidate in candidates]
    passed = certify.fixed_sequence([candidate.p_value for candidate in tested], goal.error)
    return [replace(candidate, certified=n < passed) for n, candidate in enumerate(tested)]


def _p_values(certifying: Evaluation, policy: Policy, goal: Goal) -> dict[str, float]:
    score, judge = _score(certifying, policy), certifying.judge
    return {
        metric.name: judge.chance_above(metric, score, goal.max_drop)
        if metric.bounds is None
        else certify.p_value(judge.losses(metric, score), metric.bounds, goal.max_drop, goal.error)
        for metric in goal.metrics
    }


def _users_needed(candidates: Sequence[Candidate], certifying: Evaluation, goal: Goal) -> float | None:
    """The largest number of all metrics that have a value per user and failed, see `Decision`."""
    failed = next((candidate for candidate in candidates if not candidate.certified), None)
    if failed is None:
        return None
    score, judge = _score(certifying, failed.policy), certifying.judge
    return max(
        (
            certify.users_needed(judge.losses(metric, score), metric.bounds, goal.max_drop, goal.error)
            for metric in goal.metrics
            if metric.bounds is not None and failed.p_values[metric.name] > goal.error
        ),
        default=None,
    )


def _score(evaluation: Evaluation, policy: Policy) -> NDArray[np.float32]:
    return evaluation.score(policy.stops(evaluation.traces.log_odds, evaluation.traces.offsets))


def _cheapest_certified(candidates: Sequence[Candidate], full_us: float) -> Candidate | None:
    """None if nothing certified saves enough."""
    certified = [candidate for candidate in candidates if candidate.certified]
    best = min(certified, key=lambda candidate: candidate.outcome.cost_us, default=None)
    return best if best is not None and best.outcome.cost_us <= (1 - MIN_SAVING) * full_us else None


def _policy_and_more_careful(candidates: Sequence[Candidate], chosen: Candidate | None) -> list[Policy]:
    """The chosen policy, then the certified ones that were tested before it, the last first; empty at full depth."""
    if chosen is None:
        return []
    before = candidates[: candidates.index(chosen)]
    return [chosen.policy, *(candidate.policy for candidate in reversed(before) if candidate.certified)]
