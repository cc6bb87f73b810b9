"""From traces and costs to a policy: everything in calibration that needs no session.

What chooses is not what judges:

    validation, one part of the users      maps (cross-fitted), thresholds, rivals
    validation, the other users            the certificate
    test                                   the final table, read once
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from rexit.bundle import ExitPolicy, Policy, TopK
from rexit.calibration import certify, metrics, platt, rivals
from rexit.calibration.evaluate import Evaluation, Outcome
from rexit.calibration.heads import Heads, eliminate
from rexit.calibration.metrics import Metric
from rexit.calibration.rivals import Stops
from rexit.calibration.search import Rule, Search, Space
from rexit.calibration.traces import Traces, parted
from rexit.errors import InputError
from rexit.measure.costs import Costs, depth_name
from rexit.progress import Progress, silent

BUDGETS = (0.1, 0.25, 0.5, 0.75, 1.0)
"""Shares of the allowed drop for which a policy is looked for: the sequence that is tested for a certificate, and the curve."""

MIN_SAVING = 0.01
"""A policy that saves less than this share of the cost is not worth having: against full depth, and against a fixed depth."""

TOP_K_ERRORS = (0.01, 0.05, 0.1, 0.2, 0.4)
"""How often a candidate's c may leave its bounds."""

SHOWN = ("ndcg@10", "user-auc", "auc", "logloss")
"""Metrics in every table."""


@dataclass(frozen=True)
class Goal:
    """What a policy must hold: no metric drops by more than `max_drop` against full depth, in its own unit, with this confidence.
    top_k: what users are shown of a slate, for the rule of that name; None: all of it."""

    metrics: tuple[Metric, ...]
    max_drop: float = 0.01
    confidence: float = 0.95
    top_k: int | None = None

    @property
    def error(self) -> float:
        """What the confidence leaves."""
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
class Candidate:
    """A policy that may be chosen. fixed: the exit at which it stops everybody, None for a dynamic one. budget: the drop it was
    looked for with. outcome: on the choosing part. p_values: by metric's name, of its drop being larger than allowed, on the
    certifying part."""

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


Interval = tuple[float, float, float]
"""A value, and the ends of its 95 % interval."""


@dataclass(frozen=True)
class Row:
    """A way to stop, on the test split: by metric's name, its value, and its drop against full depth."""

    name: str
    mean_layers: float
    cost_us: float
    values: Mapping[str, float]
    drops: Mapping[str, Interval]


@dataclass(frozen=True)
class Gain:
    """What dynamic exit is worth over always stopping at `exit`, on the test split: by metric, policy minus fixed depth, more
    being better. expected: what that fixed depth is expected to lose against full depth, on the choosing part."""

    exit: int
    expected: float
    differences: Mapping[str, Interval]


@dataclass(frozen=True)
class Decision:
    """What calibration chose, and what it does.

    users: of each part. tested: by metric's name, how many of the certifying users have a value. chosen: None if full depth.
    candidates: all that were tested for a certificate, in that order. rows: of the test split; `full
    depth` first, then fixed depths, rivals, and `policy` last. curve: a row for each candidate. gains: over each fixed
    depth, if the policy is dynamic. saving: share of full depth's cost that the policy saves on the choosing part. needed:
    about how many users with a value would have certified the first candidate that was not (infinite: no number would), None if
    all were or it failed by metrics over pairs alone. heads, suggested: the cheapest policy with fewer heads, if that was asked
    for (see `heads`).
    """

    goal: Goal
    policy: Policy
    maps: tuple[platt.PlattMap, ...]
    users: Mapping[str, int]
    tested: Mapping[str, int]
    chosen: Candidate | None
    candidates: tuple[Candidate, ...]
    rows: tuple[Row, ...]
    curve: tuple[Row, ...]
    gains: tuple[Gain, ...]
    saving: float
    needed: float | None
    heads: tuple[Heads, ...] = ()
    suggested: Heads | None = None


def decide(
    validation: Traces,
    test: Traces,
    costs: Costs,
    depths: Sequence[int],
    variant_sha256: str,
    goal: Goal,
    *,
    seed: int = 0,
    suggest_heads: bool = False,
    progress: Progress = silent,
) -> Decision:
    """Chooses on one part of the validation split's users, certifies on the others, measures on test. depths: of each exit, in
    layers.

    1. Users are parted at random by `seed`: a third of them chooses, see `parted`.
    2. A Platt map per exit. The search sees maps cross-fitted by user; the policy gets those of the whole choosing part.
    3. For each of a few budgets up to `max_drop`, the cheapest policy that is expected to stay within it: a fixed depth, where no
       dynamic policy saves 1 % more.
    4. Learn then Test (Angelopoulos et al., arXiv 2110.01052): they are tested in this order, careful ones first, up to the first
       that fails.
    5. The cheapest that is certified; full depth where nothing saves 1 %.
    6. The test split: values and differences with intervals over users, against full depth, fixed depths, and rivals tuned to the
       chosen policy's budget.

    Raises InputError for goals or labels that cannot work.
    """
    goal.check()
    chooses, certifies = parted(validation, seed)
    maps = platt.fit_all(chooses.log_odds, chooses.liked)
    crossed = platt.cross_fit(chooses.log_odds, chooses.liked, chooses.users)
    choosing = Evaluation(chooses, crossed, depths, costs, goal.metrics)
    certifying = Evaluation(certifies, platt.apply(maps, certifies.log_odds), depths, costs, goal.metrics)
    search = Search(choosing, Space(crossed, [m.useful for m in maps], top_k_rules(crossed, chooses, goal)))
    search.explore()
    found = search.trade_off(share * goal.max_drop for share in BUDGETS)

    last = len(depths) - 1
    depth_outcomes = {k: choosing.outcome(np.full(len(chooses), k)) for k in range(last) if maps[k].useful}
    sequence: list[Candidate] = []
    for budget, one in found.items():
        as_good = [
            k for k, o in depth_outcomes.items() if o.drop <= budget and o.cost_us <= one.outcome.cost_us / (1 - MIN_SAVING)
        ]
        if as_good:
            k = as_good[0]
            candidate = Candidate(_fixed_policy(maps, k, variant_sha256), k, budget, depth_outcomes[k])
        elif one.point != search.full.point:
            candidate = Candidate(_dynamic_policy(one.rule, maps, variant_sha256), None, budget, one.outcome)
        else:
            continue
        if not sequence or candidate.policy != sequence[-1].policy:  # a larger budget may buy nothing
            sequence.append(candidate)
    sequence = _tested(sequence, certifying, goal)
    chosen = _choose(sequence, search.full.outcome.cost_us)
    full = Policy(tuple(ExitPolicy(m.a, m.b) for m in maps), 1, variant_sha256)
    policy = chosen.policy if chosen else full

    budget = chosen.budget if chosen else goal.max_drop
    judged = _Judged(Evaluation(test, full.calibrated(test.log_odds), depths, costs, _shown(goal)))
    ways: dict[str, Stops] = {
        "full depth": rivals.fixed(last),
        **{depth_name(depths[k]): rivals.fixed(k) for k in range(last)},
        **rivals.tuned(choosing, budget),
        "policy": _as_stops(policy, test),
    }
    rows = tuple(judged.row(name, stops) for name, stops in ways.items())
    heads, suggested = eliminate(choosing, [m.useful for m in maps], budget, progress) if suggest_heads else ((), None)
    return Decision(
        goal,
        policy,
        maps,
        {"choosing": chooses.user_count, "certifying": certifies.user_count, "test": test.user_count},
        {m.name: certifying.judge.user_count(m) for m in goal.metrics},
        chosen,
        tuple(sequence),
        rows,
        tuple(judged.row(f"drop {one.budget:g}", _as_stops(one.policy, test)) for one in sequence),
        judged.gains(_as_stops(policy, test), choosing) if chosen and chosen.fixed is None else (),
        1 - (chosen.outcome.cost_us / search.full.outcome.cost_us if chosen else 1.0),
        _needed(sequence, certifying, goal),
        tuple(heads),
        suggested,
    )


def back_to_full_depth(decision: Decision) -> Decision:
    """The same decision with full depth as its policy; `saving` remains what the other one promised."""
    exits = tuple(ExitPolicy(m.a, m.b) for m in decision.maps)
    policy = replace(decision.policy, exits=exits, patience=1, quorum=0.0, top_k=None)
    full = replace(decision.rows[0], name="policy")
    return replace(decision, policy=policy, chosen=None, rows=(*decision.rows[:-1], full), gains=())


def _shown(goal: Goal) -> tuple[Metric, ...]:
    return (*goal.metrics, *(metrics.parse(name) for name in SHOWN if name not in [m.name for m in goal.metrics]))


def top_k_rules(c: NDArray[np.float32], traces: Traces, goal: Goal) -> list[TopK | None]:
    """None, and for each error rate the bounds that c leaves that often between an exit and the last, half of it on each side."""
    if goal.top_k is None:
        return [None]
    largest = int(np.diff(traces.offsets).max())
    if goal.top_k >= largest:
        raise InputError(f"top k {goal.top_k}, expected less than the largest slate's {largest} candidates")
    move = c[:, -1:] - c[:, :-1]
    rules: list[TopK | None] = [None]
    for rate in TOP_K_ERRORS:
        low, high = np.quantile(move, (rate / 2, 1 - rate / 2), axis=0).astype(np.float32)
        rise, fall = np.maximum(high, 0).tolist(), np.maximum(-low, 0).tolist()
        rules += [TopK(goal.top_k, ordered, tuple(rise), tuple(fall)) for ordered in (True, False)]
    return rules


def _dynamic_policy(rule: Rule, maps: Sequence[platt.PlattMap], variant_sha256: str) -> Policy:
    exits = [ExitPolicy(m.a, m.b, u, low) for m, u, low in zip(maps[:-1], rule.upper, rule.lower, strict=True)]
    last = ExitPolicy(maps[-1].a, maps[-1].b)
    return Policy((*exits, last), rule.patience, variant_sha256, rule.quorum, rule.top_k)


def _fixed_policy(maps: Sequence[platt.PlattMap], exit: int, variant_sha256: str) -> Policy:
    def one(k: int, m: platt.PlattMap) -> ExitPolicy:
        return ExitPolicy(m.a, m.b, 0.0, 0.0) if k == exit else ExitPolicy(m.a, m.b)

    return Policy(tuple(one(k, m) for k, m in enumerate(maps)), 1, variant_sha256)


def _as_stops(policy: Policy, traces: Traces) -> Stops:
    return lambda z, c: policy.stops(z, traces.offsets)


def _tested(sequence: Sequence[Candidate], certifying: Evaluation, goal: Goal) -> list[Candidate]:
    """The candidates with their p-values, and whether they are certified: up to the first that fails, in the order given."""
    tested = [replace(one, p_values=_p_values(certifying, one.policy, goal)) for one in sequence]
    passed = certify.fixed_sequence([one.p_value for one in tested], goal.error)
    return [replace(one, certified=n < passed) for n, one in enumerate(tested)]


def _p_values(certifying: Evaluation, policy: Policy, goal: Goal) -> dict[str, float]:
    score, judge, level = _score(certifying, policy), certifying.judge, goal.error
    return {
        metric.name: judge.chance_above(metric, score, goal.max_drop)
        if metric.bounds is None
        else certify.p_value(judge.losses(metric, score), metric.bounds, goal.max_drop, level)
        for metric in goal.metrics
    }


def _needed(sequence: Sequence[Candidate], certifying: Evaluation, goal: Goal) -> float | None:
    """Of `Decision`: the most of all metrics that have a value per user and failed."""
    failed = next((one for one in sequence if not one.certified), None)
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


def _choose(sequence: Sequence[Candidate], full_us: float) -> Candidate | None:
    best = min((one for one in sequence if one.certified), key=lambda one: one.outcome.cost_us, default=None)
    return best if best is not None and best.outcome.cost_us <= (1 - MIN_SAVING) * full_us else None


class _Judged:
    """The test split: rows of its table."""

    def __init__(self, evaluation: Evaluation) -> None:
        self._evaluation = evaluation

    def stops(self, way: Stops) -> NDArray[np.int64]:
        return way(self._evaluation.traces.log_odds, self._evaluation.c)

    def row(self, name: str, way: Stops) -> Row:
        e, stops = self._evaluation, self.stops(way)
        score = e.score(stops)
        return Row(
            name,
            e.mean_layers(stops),
            e.cost_us(stops),
            {m.name: e.judge.value(m, score) for m in e.metrics},
            {m.name: (e.judge.drop(m, score), *ends) for m, ends in e.judge.intervals(e.metrics, score).items()},
        )

    def gains(self, policy: Stops, choosing: Evaluation) -> tuple[Gain, ...]:
        """Over each fixed depth but the last."""
        e = self._evaluation
        return tuple(self._gain(k, e.score(self.stops(policy)), choosing) for k in range(e.c.shape[1] - 1))

    def _gain(self, exit: int, score: NDArray[np.float32], choosing: Evaluation) -> Gain:
        e, depth = self._evaluation, np.ascontiguousarray(self._evaluation.c[:, exit])
        intervals = e.judge.intervals(e.metrics, score, other=depth).items()
        differences = {m.name: (-e.judge.drop(m, score, depth), -high, -low) for m, (low, high) in intervals}
        return Gain(exit, choosing.outcome(np.full(len(choosing.c), exit)).drop, differences)
