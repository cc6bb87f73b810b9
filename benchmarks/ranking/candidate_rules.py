"""Does a rule that looks at where each candidate stands in its slate cost less than today's, for the same loss? Replayed on
kept traces.

    rexit calibrate BUNDLE --catalog CATALOG --metric ndcg@10 --top-k 10 --slate 100 [--max-slates 1000]
    python benchmarks/ranking/candidate_rules.py CATALOG BUNDLE [--variant cpu-int8] [--max-slates 1000]

Rules, each with a share of the slate (a quorum) at which all that are left stop:

- *today*: what `rexit calibrate` searches: thresholds by exit, patience, and the top-k rule with one interval per exit.
- *classifier*: a candidate stops once a logistic regression is sure whether it is among the final k, by c, its change, the gap to
  the k-th, both over the slate's spread, and their squares (after LEAR, arXiv 2105.02568, which has trees and lets none in).
- *table*: the same chance by the gap's and the spread's quantiles.
- *widths*: the top-k rule with intervals by quantiles of the gap instead of one per exit (after Col-Bandit, arXiv 2602.02827).
- *rank*: the best share of a slate goes on from exit to exit, never less than k (candidate pruning, as in CEC-Ranking, arXiv
  2205.09638).

All are fitted on the validation users who choose, and there the cheapest setting is taken that is expected to lose at most a
budget; `rexit calibrate`'s test certifies the settings of growing budgets on the other validation users; the test split reports.
Costs are those of the calibration's profile; differences of costs are against today's rules, with 95 % intervals over users.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from frontier import METRIC, recorded
from numpy.typing import NDArray
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from rexit.bundle import Bundle, Catalog, ExitPolicy, Policy, TopK
from rexit.bundle.slate_rules import known_places
from rexit.calibration import certify, metrics
from rexit.calibration.choose import platt
from rexit.calibration.choose.evaluate import Evaluation
from rexit.calibration.choose.search import QUORUMS, Rule, Search, Space
from rexit.calibration.decide import BUDGETS, TOP_K_ERRORS, Goal, top_k_rules
from rexit.calibration.options import CalibrationOptions
from rexit.calibration.record.traces import Traces, split_users
from rexit.ranking import bootstrap
from rexit.scripts import script

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
Stops = NDArray[np.int64]

CHANCES = np.geomspace(1e-4, 0.5, 20)
SHARES = np.linspace(0.05, 0.95, 28)
GAPS, SPREADS = 12, 3
"""Quantiles of a table."""


class Slates:
    """Candidates of traces as rows of slates, float32 [S, W], nan where a slate is shorter."""

    def __init__(self, offsets: Stops) -> None:
        self.offsets, self.sizes = offsets, np.diff(offsets)
        self.inside = np.arange(self.sizes.max()) < self.sizes[:, None]

    def rows(self, values: NDArray[Any]) -> NDArray[Any]:
        filled = np.full(self.inside.shape, np.nan, np.float32)
        filled[self.inside] = values
        return filled


@dataclass(frozen=True)
class Standing:
    """Where candidates stand after an exit. All float32 [S, W]."""

    c: Floats
    change: Floats
    gap: Floats
    """c less that of the k-th best of the slate."""
    spread: Floats
    """Standard deviation of the slate's c."""

    def features(self) -> NDArray[np.float64]:
        """float64 [S * W, 6]."""
        relative = self.gap / self.spread
        columns = (self.c, self.change, self.gap, relative, self.change / self.spread, self.spread)
        return np.stack([column.ravel() for column in columns], 1).astype(np.float64)


def standing(now: Floats, before: Floats, k: int) -> Standing:
    known = np.where(np.isnan(now), -np.inf, now)
    at = max(0, now.shape[1] - k)
    kth = np.partition(known, at, axis=1)[:, at, None]
    kth = np.where(np.isinf(kth), np.nanmin(now, axis=1, keepdims=True), kth)  # a slate of fewer than k
    spread = np.nanstd(now, axis=1, keepdims=True) + np.float32(1e-6)
    return Standing(now, now - before, now - kth, np.broadcast_to(spread, now.shape))


def replay(slates: Slates, c: Floats, quorum: float, stops_at: Callable[[int, Floats, Floats, Bools], Bools]) -> Stops:
    """The exit of each candidate, int64 [n]. stops_at(exit, now, before, running): who of a slate stops, bool [S, W]; `now` holds
    the c at which a candidate stopped, if it has."""
    exits = c.shape[1]
    at = np.full(slates.inside.shape, exits - 1)
    now = np.full(slates.inside.shape, np.nan, np.float32)
    running = slates.inside.copy()
    for k in range(exits - 1):
        before = now.copy()
        now = np.where(running, slates.rows(c[:, k]), now)
        if k == 0:
            before = now
        ends = running & stops_at(k, now, before, running)
        left = running & ~ends
        few = left.sum(1) <= quorum * slates.sizes
        ends |= running & few[:, None]
        at[ends] = k
        running &= ~ends
    return at[slates.inside]


def final(slates: Slates, c: Floats, k: int) -> Bools:
    """Who is among the k best of a slate at full depth, bool [S, W]."""
    last = slates.rows(c[:, -1])
    return standing(last, last, k).gap >= 0


class Classifier:
    """Chances to be among the final k, by a logistic regression per exit."""

    def __init__(self, slates: Slates, c: Floats, k: int) -> None:
        is_final, before = final(slates, c, k)[slates.inside], slates.rows(c[:, 0])
        self._k, self._models = k, []
        for exit in range(c.shape[1] - 1):
            now = slates.rows(c[:, exit])
            features = standing(now, before, k).features()[slates.inside.ravel()]
            model = make_pipeline(StandardScaler(), PolynomialFeatures(2, include_bias=False), LogisticRegression(max_iter=500))
            self._models.append(model.fit(features, is_final))
            before = now

    def chance(self, exit: int, now: Floats, before: Floats) -> Floats:
        features = standing(now, before, self._k).features()
        known = np.isfinite(features).all(1)
        chance = np.zeros(len(features), np.float32)
        chance[known] = self._models[exit].predict_proba(features[known])[:, 1]
        return chance.reshape(now.shape)


class ByQuantiles:
    """Chances to be among the final k, or how far c still moves, by quantiles of the gap and of the spread."""

    def __init__(self, slates: Slates, c: Floats, k: int) -> None:
        is_final, last = final(slates, c, k)[slates.inside], c[:, -1]
        self._k = k
        self._edges, self._chances, self._moves = [], [], []
        for exit in range(c.shape[1] - 1):
            now = slates.rows(c[:, exit])
            at = standing(now, now, k)
            gap, spread = at.gap[slates.inside], at.spread[slates.inside]
            edges = np.quantile(gap, np.linspace(0, 1, GAPS + 1)[1:-1]), np.quantile(spread, np.linspace(0, 1, SPREADS + 1)[1:-1])
            self._edges.append(edges)
            cell = self._cell(edges, gap, spread)
            count = np.bincount(cell, minlength=GAPS * SPREADS)
            self._chances.append((np.bincount(cell, is_final, GAPS * SPREADS) + 0.05) / (count + 1))
            moves, row = last - c[:, exit], cell // SPREADS
            self._moves.append([np.sort(moves[row == n]) for n in range(GAPS)])

    @staticmethod
    def _cell(edges: tuple[NDArray[Any], NDArray[Any]], gap: NDArray[Any], spread: NDArray[Any]) -> NDArray[np.int64]:
        return np.searchsorted(edges[0], gap) * SPREADS + np.searchsorted(edges[1], spread)

    def chance(self, exit: int, now: Floats, before: Floats) -> Floats:
        at = standing(now, before, self._k)
        return self._chances[exit][self._cell(self._edges[exit], at.gap, at.spread)].astype(np.float32)

    def interval(self, exit: int, now: Floats, error: float) -> tuple[Floats, Floats]:
        gap = standing(now, now, self._k).gap
        row = np.searchsorted(self._edges[exit][0], gap)
        ends = [[np.quantile(moves, q) if len(moves) else 0.0 for q in (error / 2, 1 - error / 2)] for moves in self._moves[exit]]
        low, high = np.array(ends, np.float32).T
        return now + np.minimum(low, 0)[row], now + np.maximum(high, 0)[row]


Setting = Callable[[Slates, Floats], Stops]


def by_chance(model: Classifier | ByQuantiles) -> Iterable[Setting]:
    def setting(out: float, into: float, quorum: float, slates: Slates, c: Floats) -> Stops:
        def known(exit: int, now: Floats, before: Floats, running: Bools) -> Bools:
            chance = model.chance(exit, now, before)
            return (chance < out) | (chance > 1 - into)

        return replay(slates, c, quorum, known)

    return (partial(setting, out, into, quorum) for out, into, quorum in product(CHANCES, (0.0, 0.1, 0.3, 0.5), QUORUMS))


def by_widths(model: ByQuantiles, k: int) -> Iterable[Setting]:
    rule = TopK(k, False, (), ())

    def setting(error: float, quorum: float, slates: Slates, c: Floats) -> Stops:
        ends: dict[str, Floats] = {}

        def settled(exit: int, now: Floats, before: Floats, running: Bools) -> Bools:
            low, high = model.interval(exit, now, error)
            for name, end in (("low", low), ("high", high)):  # who has stopped keeps the interval of that exit
                ends[name] = np.where(running, end, ends.get(name, end))
            return known_places(ends["low"], ends["high"], slates.sizes[:, None], rule)

        return replay(slates, c, quorum, settled)

    return (partial(setting, error, quorum) for error, quorum in product((*TOP_K_ERRORS, 0.6, 0.8, 1.0), QUORUMS))


def by_rank(k: int) -> Iterable[Setting]:
    def setting(share: float, quorum: float, slates: Slates, c: Floats) -> Stops:
        def low(exit: int, now: Floats, before: Floats, running: Bools) -> Bools:
            order = np.argsort(np.where(np.isnan(now), np.inf, -now), axis=1, kind="stable")
            rank = np.empty_like(order)
            np.put_along_axis(rank, order, np.broadcast_to(np.arange(now.shape[1]), now.shape), 1)
            return rank >= np.maximum(k, slates.sizes * share ** (exit + 1))[:, None]

        return replay(slates, c, quorum, low)

    return (partial(setting, share, quorum) for share, quorum in product(SHARES, QUORUMS))


@dataclass(frozen=True)
class Row:
    """A way to stop on the test split. cost: share of full depth's; less: the cost less today's at the same budget, with its
    interval; drop: of METRIC, with its interval; p: of the test that certifies."""

    name: str
    budget: float
    cost: float
    less: tuple[float, float, float] | None
    drop: tuple[float, float, float]
    p: float
    certified: bool


def interval(sums: NDArray[np.float64], counts: NDArray[np.float64]) -> tuple[float, float, float]:
    low, high = np.percentile(bootstrap(sums, counts), [2.5, 97.5])
    return float(sums.sum() / counts.sum()), float(low), float(high)


def rows_of(catalog: Catalog, bundle: Bundle, slate: int, k: int, max_slates: int, max_drop: float) -> list[Row]:
    record, traces = recorded(catalog, bundle, slate, max_slates)
    depths, metric = bundle.manifest.exits, metrics.parse(METRIC)
    costs = record.profile.costs(record.prefix_tokens, record.candidate_tokens, bundle.variant.max_tokens, 0.0)
    choosers, certifiers = split_users(traces["validation"])
    maps = platt.fit_all(choosers.log_odds, choosers.liked)

    def evaluation(part: Traces) -> Evaluation:
        return Evaluation(part, platt.apply(maps, part.log_odds), depths, costs, (metric,))

    goal = Goal((metric,), max_drop, 0.95, k)
    choosing, certifying, test = evaluation(choosers), evaluation(certifiers), evaluation(traces["test"])
    search = Search(choosing, Space(choosing.c, [m.useful for m in maps], top_k_rules(choosing.c, choosers, goal)))
    search.explore()
    budgets = [share * max_drop for share in BUDGETS]
    here, c = Slates(choosers.offsets), choosing.c
    tables = ByQuantiles(here, c, k)
    families: dict[str, Iterable[Setting]] = {
        "today": [as_searched(trial.rule) for trial in search.trade_off(budgets).values()],
        "classifier": by_chance(Classifier(here, c, k)),
        "table": by_chance(tables),
        "widths": by_widths(tables, k),
        "rank": by_rank(k),
    }
    whole = costs.mean(np.full(len(test.c), len(depths) - 1), test.traces.offsets)
    rows: list[Row] = []
    paid: dict[float, NDArray[np.float64]] = {}
    for name, family in families.items():
        tried = [(setting, choosing.outcome(setting(here, c))) for setting in family]
        p_values, cost_of = [], {}
        for budget in budgets:
            within = [(outcome.cost_us, n) for n, (_, outcome) in enumerate(tried) if outcome.drop <= budget]
            if not within:
                continue
            setting = tried[min(within)[1]][0]
            p_values.append(p_value(certifying, setting, goal))
            stops = setting(Slates(test.traces.offsets), test.c)
            cost_of[budget] = by_user(costs.by_slate(stops, test.traces.offsets), test.traces)
            losses = test.judge.losses(metric, test.score(stops))
            rows.append(
                Row(
                    name,
                    budget,
                    float(cost_of[budget].sum() / by_user(np.ones(len(test.traces.offsets) - 1), test.traces).sum() / whole),
                    less(cost_of[budget], paid.get(budget), test.traces, whole),
                    interval(losses, np.ones(len(losses))),
                    p_values[-1],
                    certify.fixed_sequence(p_values, goal.error) == len(p_values),
                )
            )
        paid = paid or cost_of
    return rows


def as_searched(rule: Rule) -> Setting:
    exits = [ExitPolicy(1, 0, upper, lower) for upper, lower in zip(rule.upper, rule.lower, strict=True)]
    policy = Policy((*exits, ExitPolicy()), rule.patience, "", rule.quorum, rule.top_k)
    return lambda slates, c: policy.stops(c, slates.offsets)


def p_value(certifying: Evaluation, setting: Setting, goal: Goal) -> float:
    (metric,) = goal.metrics
    assert metric.bounds is not None
    score = certifying.score(setting(Slates(certifying.traces.offsets), certifying.c))
    return certify.p_value(certifying.judge.losses(metric, score), metric.bounds, goal.max_drop, goal.error)


def by_user(values: NDArray[np.float64], traces: Traces) -> NDArray[np.float64]:
    """The sum over a user's slates. values: of each slate, float64 [S]."""
    return np.bincount(traces.users[traces.offsets[:-1]], values, traces.user_count).astype(np.float64)


def less(
    mine: NDArray[np.float64], today: NDArray[np.float64] | None, traces: Traces, whole: float
) -> tuple[float, float, float] | None:
    """Share of full depth's cost that a rule takes more than today's; None for today's own."""
    if today is None:
        return None
    return interval((mine - today) / whole, by_user(np.ones(len(traces.offsets) - 1), traces))


def table(rows: Sequence[Row]) -> Table:
    markdown = Table("rule", "expected", "cost", "less today's", "NDCG@10 lost", "p", "certified", box=MARKDOWN)
    text = "{:+.4f} ({:+.4f} to {:+.4f})".format
    for row in rows:
        markdown.add_row(
            row.name,
            f"{row.budget:g}",
            f"{row.cost:.3f}",
            "" if row.less is None else "{:+.3f} ({:+.3f} to {:+.3f})".format(*row.less),
            text(*row.drop),
            f"{row.p:.3f}",
            "yes" if row.certified else "no",
        )
    return markdown


@script
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("catalog", type=Path)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--variant", default="cpu-fp32")
    parser.add_argument("--slate", type=int, default=100, help="as the calibration had it (100)")
    parser.add_argument("--top-k", type=int, default=10, help="as the calibration had it (10)")
    parser.add_argument("--max-slates", type=int, default=CalibrationOptions.max_slates, help="as the calibration had it (5000)")
    parser.add_argument("--max-drop", type=float, default=0.01, help="of NDCG@10 (0.01)")
    args = parser.parse_args()
    catalog, bundle = Catalog.open(args.catalog), Bundle.open(args.bundle, args.variant)
    Console(width=160).print(table(rows_of(catalog, bundle, args.slate, args.top_k, args.max_slates, args.max_drop)))


if __name__ == "__main__":
    main()
