"""From traces and costs to a policy: all of calibration that needs no session.

What chooses is not what judges:

    validation, users who choose           maps (cross-fitted) and what they read, thresholds
    validation, users who certify          the certificate
    test                                   the final table, read once

A user's id alone says which of the two it is, see `rexit.format.roles`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rexit.calibration import audit_limits, metrics
from rexit.calibration import maps as choice_of_maps
from rexit.calibration.evaluation import Evaluation
from rexit.calibration.floor import Floor, find_floor, promised
from rexit.calibration.goal import Goal
from rexit.calibration.metrics import LABEL_FREE, Judge, Metric
from rexit.calibration.policies import (
    Candidate,
    certify_in_order,
    cheapest_certified,
    explored,
    find_candidates,
    policy_of,
    users_needed,
)
from rexit.calibration.traces import Traces, split_users
from rexit.data.baselines import Scores
from rexit.data.ranking import differ
from rexit.errors import InputError
from rexit.format.bundle import Policy
from rexit.upkeep.audit import AuditLimits
from rexit.upkeep.measure import Costs, depth_name

FULL_DEPTH, LAST_HEAD = "full depth", "last head alone"
"""Rows of the test split: what the last exit answers, and its own head's answer where its map reads all heads."""

FLOAT32, OWN_FULL_DEPTH = "float32 model at full depth", "this variant's own full depth"
"""What losses are counted against: the second where the bundle has no float32 reference."""

TABLE_METRICS = ("ndcg@10", "user-auc", "auc", "logloss")
LABEL_FREE_TABLE = ("expected-ndcg@10", "top-k-overlap@10", "agreement")
"""Metrics in every table; and without labels. An overlap needs larger slates."""


@dataclass(frozen=True)
class Decision:
    """What calibration chose, and what it does.

    Attributes:
        goal: what the policy must keep.
        policy: the policy to write.
        choice: the policy's maps, and the others there were to choose from.
        users: number of users, by part: `choosing`, `certifying`, `test`.
        tested: by metric's name, how many of the certifying users have a value.
        chosen: the candidate that `policy` is; None if that is full depth.
        candidates: all that were tested for a certificate, in that order.
        rows: ways to stop on the test split: `full depth` first, then fixed depths, and `policy` last. Fixed depths use
            the chosen maps. If these read all heads, the last head has a row of its own.
        curve: each candidate on the test split.
        gains: over each fixed depth, if the policy is dynamic.
        saving: share of full depth's cost that the policy saves on the choosing users.
        users_needed: about how many users with a value would have certified the first candidate that failed (infinite: no
            number would); None if none failed, or it failed by metrics over pairs alone.
        watch: the losses and limits that a service watches; None if the policy runs every candidate to full depth.
        floor: the policy's; None: none was sought. full_floor: full depth's, likewise.
        losses: by metric's name, what each part loses on test against float32; empty without a reference.
    """

    goal: Goal
    policy: Policy
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
    floor: Floor | None = None
    full_floor: Floor | None = None
    losses: Mapping[str, Losses] = field(default_factory=dict)

    @property
    def has_reference(self) -> bool:
        """Whether losses are counted against the float32 model."""
        return bool(self.losses)

    def certificate(self) -> dict[str, Any] | None:
        """Returns `certificate` of policy.json, of the metrics with a value per user; None for full depth, or without any."""
        goal = self.goal
        users = {metric.name: self.tested[metric.name] for metric in goal.metrics if metric.bounds is not None}
        if self.chosen is None or not users:
            return None
        promised = {
            "metrics": dict.fromkeys(users, goal.max_drop),
            "confidence": goal.confidence,
            "users": users,
            "against": FLOAT32 if self.has_reference else OWN_FULL_DEPTH,
        }
        return promised | ({} if goal.tail is None else {"tail": asdict(goal.tail)})


def decide(
    *,
    validation: Traces,
    test: Traces,
    costs: Costs,
    depths: Sequence[int],
    variant_sha256: str,
    goal: Goal,
    maps: str = choice_of_maps.AUTO,
) -> Decision:
    """Chooses on one part of the validation split's users, certifies on the others, measures on test.

    1. The users are divided by their ids (see `split_users`).
    2. A map per exit (see `maps`), to the labels; without any, to the full model's probability. The search gets maps cross-fitted
       by user, the policy those of all choosing users. Losses are of the whole, precision, exits and policy: counted against
       the float32 model at full depth, by the same maps; without a reference against what the variant answers at the last exit.
    3. For each of many budgets up to `max_drop`, the cheapest policy that is expected to stay within it; of these the likeliest
       to pass, and ever cheaper ones (see `policies`).
    4. Learn then Test (Angelopoulos et al., arXiv 2110.01052): they are tested in this order, up to the first that fails.
    5. The cheapest certified policy; full depth, by the same maps, if none saves 1 %.
    6. If a recall is asked for, the floor of that policy, and of full depth (see `find_floor`).
    7. The test split: values and differences with intervals over users, against full depth and fixed depths.

    Args:
        validation, test: traces of the two splits.
        costs: what a slate costs.
        depths: layers of each exit.
        variant_sha256: the variant that the policy is for.
        goal: what the policy must keep.
        maps: the heads that an exit's c reads, OWN, ALL or AUTO of `maps`.

    Raises:
        InputError: for goals or labels that cannot work.
    """
    goal.check()
    goal.check_sizes(int(np.diff(validation.offsets).max()))
    _check_labels(validation, test, goal)
    choosers, certifiers = split_users(validation)
    choice = choice_of_maps.choose(maps, choosers, goal.metrics)

    def exact(traces: Traces) -> NDArray[np.float32] | None:
        return None if traces.exact is None else _last(choice_of_maps.apply(choice.maps, traces.exact))

    def evaluate(traces: Traces, of_metrics: Sequence[Metric]) -> Evaluation:
        c = choice_of_maps.apply(choice.maps, traces.log_odds)
        return Evaluation(traces, c, depths, costs, of_metrics, exact(traces))

    choosing_exact = exact(choosers)
    if choosing_exact is not None:  # what float32 changes, added to answers that are cross-fitted
        choosing_exact += _last(choice.c) - _last(choice_of_maps.apply(choice.maps, choosers.log_odds))
    choosing = Evaluation(choosers, choice.c, depths, costs, goal.metrics, choosing_exact)
    certifying = evaluate(certifiers, goal.metrics)
    search = explored(choosing, choice.maps, goal)
    tested = {metric.name: certifying.judge.user_count(metric) for metric in goal.metrics}
    promising = find_candidates(search, choosing, choice.maps, variant_sha256, goal, tested)
    candidates = certify_in_order(promising, certifying, goal)
    full_us = search.full.outcome.cost_us
    chosen = cheapest_certified(candidates, full_us)
    policy = chosen.policy if chosen else policy_of(choice.maps, variant_sha256)
    comparison = Comparison(evaluate(test, _table_metrics(goal, test)))
    last = len(depths) - 1
    rows = [comparison.fixed_row(FULL_DEPTH, last), *(comparison.fixed_row(depth_name(depths[k]), k) for k in range(last))]
    if choice.reads == choice_of_maps.ALL:
        own = choice_of_maps.apply(choice.own[-1:], test.log_odds[:, -1:])[:, 0]
        rows.append(comparison.fixed_row(LAST_HEAD, last, own))
    rows.append(comparison.policy_row("policy", policy))

    def floor_of(policy: Policy) -> Floor | None:
        if goal.recall is None:
            return None
        return find_floor(policy, choosers, certifiers, test, goal.recall, goal.confidence, len(candidates) + 1)

    return Decision(
        goal=goal,
        policy=policy,
        choice=choice,
        users={"choosing": choosers.user_count, "certifying": certifiers.user_count, "test": test.user_count},
        tested=tested,
        chosen=chosen,
        candidates=tuple(candidates),
        rows=tuple(rows),
        curve=tuple(comparison.policy_row(f"drop {candidate.budget:g}", candidate.policy) for candidate in candidates),
        gains=comparison.gains(policy, choosing) if chosen and chosen.fixed is None else (),
        saving=1 - chosen.outcome.cost_us / full_us if chosen else 0.0,
        users_needed=users_needed(candidates, certifying, goal),
        watch=None
        if chosen is None
        else audit_limits.limits(
            chosen.policy,
            certifying,
            goal,
            goal.error / len(candidates),  # the policy was chosen among them
        ),
        floor=floor_of(policy),
        full_floor=floor_of(policy_of(choice.maps, variant_sha256)),
        losses={} if test.exact is None else comparison.losses(choice.own[-1], policy),
    )


def _last(c: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.ascontiguousarray(c[:, -1])


def back_to_full_depth(decision: Decision) -> Decision:
    """Returns the same decision with full depth as its policy; `saving` remains what the other one promised."""
    full = policy_of(decision.choice.maps, decision.policy.variant_sha256)
    policy = replace(
        full, made_on=decision.policy.made_on, prior_shift=decision.policy.prior_shift, floor=promised(decision.full_floor)
    )
    row = replace(decision.rows[0], name="policy")
    rows = (*decision.rows[:-1], row)
    losses = {name: replace(parts, stopping=0.0, whole=row.drops[name]) for name, parts in decision.losses.items()}
    return replace(
        decision, policy=policy, chosen=None, rows=rows, gains=(), watch=None, floor=decision.full_floor, losses=losses
    )


def _check_labels(validation: Traces, test: Traces, goal: Goal) -> None:
    """Raises InputError for labels in one split alone; without any, for a metric that needs them, and for scores all equal."""
    if validation.labelled != test.labelled:
        raise InputError(
            f"{'test' if validation.labelled else 'validation'}: has no labels, expected them in both splits or in none"
        )
    needs = next((metric.name for metric in goal.metrics if metric.kind not in LABEL_FREE), None)
    if not validation.labelled and needs is not None:
        raise InputError(
            f"metric {needs}: needs labels and there are none, expected expected-ndcg@K, top-k-overlap@K or agreement"
        )
    slates = np.repeat(np.arange(len(validation.offsets) - 1), np.diff(validation.offsets))
    if not validation.labelled and not differ(validation.log_odds[:, -1], slates):
        raise InputError("the full model gives all candidates of a slate the same score, in every slate: it ranks nothing")


def _table_metrics(goal: Goal, test: Traces) -> tuple[Metric, ...]:
    """The goal's metrics, then the usual ones."""
    names = [metric.name for metric in goal.metrics]
    table = TABLE_METRICS if test.labelled else LABEL_FREE_TABLE
    largest = int(np.diff(test.offsets).max())
    others = [metric for metric in map(metrics.parse, table) if metric.name not in names]
    return (*goal.metrics, *(metric for metric in others if metric.kind != "top-k-overlap" or metric.k < largest))


Interval = tuple[float, float, float]
"""A value, and the ends of its 95 % interval."""


@dataclass(frozen=True)
class Row:
    """A way to stop, on the test split.

    Attributes:
        name: its name in tables.
        mean_layers: mean over candidates.
        cost_us: mean microseconds per slate, by the cost model.
        values: each metric's value, by name.
        drops: each metric's drop against full depth, by name; above 0 if something is lost.
    """

    name: str
    mean_layers: float
    cost_us: float
    values: Mapping[str, float]
    drops: Mapping[str, Interval]


@dataclass(frozen=True)
class Baseline:
    """A ranking of the test split that no exit makes, see `rexit.data.baselines`.

    Attributes:
        name: its name in tables.
        values, drops: as of a `Row`; for metrics that compare a ranking with the labels.
    """

    name: str
    values: Mapping[str, float]
    drops: Mapping[str, Interval]


def baseline_rows(scores: Scores, test: Traces, full: NDArray[np.float32], metrics: Sequence[Metric]) -> tuple[Baseline, ...]:
    """Returns the baselines of the test split. scores: each one's, of its pairs. full: c at full depth, float32 [n]."""
    judge = Judge(test.users, test.liked, test.offsets, full)
    ranking = [metric for metric in metrics if metric.kind not in (*LABEL_FREE, "logloss")]
    rows = []
    for name, exact in scores.items():
        score = exact.astype(np.float32)
        ends = judge.intervals(ranking, score)
        values = {metric.name: judge.value(metric, score) for metric in ranking}
        drops = {metric.name: (judge.drop(metric, score), *ends[metric]) for metric in ranking}
        rows.append(Baseline(name, values, drops))
    return tuple(rows)


@dataclass(frozen=True)
class Gain:
    """How a policy compares with stopping every candidate at one exit, on the test split.

    Attributes:
        exit: the fixed depth's exit.
        expected_drop: what that depth is expected to lose against full depth, for the choosing users.
        differences: by metric's name, policy minus fixed depth; above 0 if the policy is better.
    """

    exit: int
    expected_drop: float
    differences: Mapping[str, Interval]


@dataclass(frozen=True)
class Losses:
    """A metric on the test split, measured and not promised.

    Attributes:
        model: the float32 model alone, by its last head, as it was handed in.
        float32: the float32 model at full depth, by the policy's maps.
        precision: what the variant's full depth loses against that.
        stopping: what the policy loses beside it.
        whole: both, with the 95 % interval.
    """

    model: float
    float32: float
    precision: float
    stopping: float
    whole: Interval


class Comparison:
    """Compares ways to stop on the test split. A way is the exit of each pair, int64 [n].

    Args:
        evaluation: the test split, under the chosen maps.
    """

    def __init__(self, evaluation: Evaluation) -> None:
        self.evaluation = evaluation

    def fixed_row(self, name: str, exit_: int, c: NDArray[np.float32] | None = None) -> Row:
        """Returns the table's row for stopping every candidate at one exit. c: by another map than the chosen, float32 [n]."""
        return self._row(name, self._fixed(exit_), np.ascontiguousarray(self.evaluation.c[:, exit_] if c is None else c))

    def policy_row(self, name: str, policy: Policy) -> Row:
        """Returns the table's row for a policy."""
        stops = self._stops(policy)
        return self._row(name, stops, self.evaluation.score(stops))

    def gains(self, policy: Policy, choosing: Evaluation) -> tuple[Gain, ...]:
        """Returns how a policy compares with each fixed depth but the last. choosing: the users who choose."""
        score = self.evaluation.score(self._stops(policy))
        return tuple(self._gain(k, score, choosing) for k in range(self.evaluation.c.shape[1] - 1))

    def losses(self, own: choice_of_maps.PlattMap, policy: Policy) -> dict[str, Losses]:
        """Returns what precision and stopping lose, by metric's name. own: the map of the last head alone."""
        judge, exact = self.evaluation.judge, self.evaluation.traces.exact
        assert exact is not None
        model = _last(choice_of_maps.apply((own,), exact[:, -1:]))
        full, row = self.fixed_row(FULL_DEPTH, self.evaluation.c.shape[1] - 1), self.policy_row("policy", policy)
        return {
            metric.name: Losses(
                judge.value(metric, model),
                judge.full(metric),
                full.drops[metric.name][0],
                row.drops[metric.name][0] - full.drops[metric.name][0],
                row.drops[metric.name],
            )
            for metric in self.evaluation.metrics
        }

    def _fixed(self, exit_: int) -> NDArray[np.int64]:
        return np.full(len(self.evaluation.c), exit_)

    def _stops(self, policy: Policy) -> NDArray[np.int64]:
        traces = self.evaluation.traces
        return policy.stops(traces.log_odds, traces.offsets)

    def _row(self, name: str, stops: NDArray[np.int64], score: NDArray[np.float32]) -> Row:
        evaluation, judge = self.evaluation, self.evaluation.judge
        ends = judge.intervals(evaluation.metrics, score)
        return Row(
            name=name,
            mean_layers=evaluation.mean_layers(stops),
            cost_us=evaluation.cost_us(stops),
            values={metric.name: judge.value(metric, score) for metric in evaluation.metrics},
            drops={metric.name: (judge.drop(metric, score), *ends[metric]) for metric in evaluation.metrics},
        )

    def _gain(self, k: int, score: NDArray[np.float32], choosing: Evaluation) -> Gain:
        judge, fixed = self.evaluation.judge, np.ascontiguousarray(self.evaluation.c[:, k])
        ends = judge.intervals(self.evaluation.metrics, score, other=fixed)
        differences = {metric.name: (-judge.drop(metric, score, fixed), -high, -low) for metric, (low, high) in ends.items()}
        return Gain(k, choosing.outcome(np.full(len(choosing.c), k)).drop, differences)
