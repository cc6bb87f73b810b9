"""The cheapest stopping rules that keep the ranking as good as required."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rexit.calibration.evaluation import Evaluation, Outcome
from rexit.format.bundle.policy import ExitPolicy, Policy, TopK

QUANTILES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
PATIENCE = (1, 2, 3)
PLACES = 10
"""Of a slate, if no metric counts some."""
QUORUMS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.8)
"""Candidates that stop together, in multiples of the places that a metric counts: fewer than these, or every slate of no more
candidates would stop at the first exit, whatever that is worth."""
KEEPS = (1.0, 1.2, 1.5, 2.0, 3.0, 5.0)
"""Candidates that go on, in the same multiples."""
PRICES = (3.0, 10.0, 30.0, 100.0, 300.0)
FIRST_EXITS = 8
SHARED = 12
MAX_PASSES = 4
MAX_FULL_AXES = 12
"""With more thresholds than this a pass tries near steps instead of all values, and no pairs of steps."""

Point = tuple[int, ...]
"""A rule as positions on the axes of a Space."""


@dataclass(frozen=True)
class StoppingRule:
    """Where candidates stop, apart from the maps.

    At exit k < E - 1 when c >= upper[k] or c <= -lower[k] (inf: never), once `patience` heads in a row agree on the sign of c.
    keep (0: all), quorum and top_k are the rules for whole slates, see `rexit.format.bundle.Policy`.
    """

    patience: int
    upper: tuple[float, ...]
    lower: tuple[float, ...]
    keep: tuple[int, ...]
    quorum: int = 0
    top_k: TopK | None = None

    def stops(self, c: NDArray[np.float32], offsets: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns the exit of each pair, int64 [n], as `Policy.stops` does with these c."""
        rows = zip((*self.upper, math.inf), (*self.lower, math.inf), (*self.keep, 0), strict=True)
        exits = tuple(ExitPolicy(upper=upper, lower=lower, keep=keep) for upper, lower, keep in rows)
        return Policy(exits, self.patience, "", self.quorum, self.top_k).stops(c, offsets)


@dataclass(frozen=True)
class Trial:
    """A rule that was tried, and its outcome on the choosing users."""

    point: Point
    rule: StoppingRule
    outcome: Outcome


Objective = Callable[[Trial], tuple[float, float]]
"""What a descent minimizes; the second number breaks ties."""


def grid(c: NDArray[np.float32]) -> tuple[float, ...]:
    """Returns thresholds to try on one side of an exit: 0 (always), eleven quantiles of the c on that side, infinity (never).

    Quantiles make each step move a similar number of candidates. They are rounded to float32, the runtime's precision.

    c: float32 [n], with its sign flipped for the lower side.
    """
    positive = c[c > 0]
    inner = np.unique(np.quantile(positive, QUANTILES).astype(np.float32)).tolist() if len(positive) else []
    return (0.0, *inner, math.inf)


class Space:
    """The rules to choose from, with an axis of values for patience, the quorum, the top-k rule, each side of each open exit, and
    how many candidates each open exit keeps.

    Args:
        c: calibrated log-odds, float32 [n, E].
        useful: whether an exit may stop candidates, bool [E].
        top_k: the top-k rules to choose from, None among them.
        quorums: the quorums to choose from, in multiples of the places, rounded up.
        grids: thresholds by side and exit; None: `grid` of c.
        places: of a slate, those that the metrics count, which `KEEPS` multiplies; None: every exit keeps all, and quorums
            are multiples of `PLACES`.
    """

    def __init__(
        self,
        c: NDArray[np.float32],
        useful: Sequence[bool],
        top_k: Sequence[TopK | None] = (None,),
        quorums: Sequence[float] = QUORUMS,
        grids: Sequence[Sequence[Sequence[float]]] | None = None,
        places: int | None = None,
    ) -> None:
        exits = c.shape[1]
        self.open = [k for k in range(exits - 1) if useful[k]]
        self.exits = exits
        sides = grids or [[grid(sign * c[:, k]) for k in range(exits - 1)] for sign in (1, -1)]
        self.thresholds = [(side, k, tuple(sides[side][k])) for k in self.open for side in (0, 1)]
        """Side 0 is upper, 1 is lower."""
        self.keeps = () if places is None else (*sorted({math.ceil(share * places) for share in KEEPS}), 0)
        """How many candidates an exit may keep, ascending; last 0: all."""
        counts = sorted({math.ceil(share * (places or PLACES)) for share in quorums})
        self.common = (tuple(p for p in PATIENCE if p <= exits), tuple(counts), tuple(top_k))
        self.keeping = self.open if self.keeps else []
        """The exits that may keep a number."""
        self.lengths = (
            *map(len, self.common),
            *(len(values) for _, _, values in self.thresholds),
            *(len(self.keeps) for _ in self.keeping),
        )
        end = 3 + len(self.thresholds)
        self.at_thresholds, self.at_keeps = slice(3, end), slice(end, None)
        """Where a point has its positions among thresholds and keeps."""
        self.many = len(self.thresholds) > MAX_FULL_AXES

    @property
    def never(self) -> Point:
        """The point of full depth: each threshold at its last value, infinity, and all candidates kept."""
        return (0, 0, 0, *(length - 1 for length in self.lengths[3:]))

    def rule(self, point: Point) -> StoppingRule:
        """Returns the rule at a point."""
        sides = [[math.inf] * (self.exits - 1) for _ in range(2)]
        for (side, k, values), at in zip(self.thresholds, point[self.at_thresholds], strict=True):
            sides[side][k] = values[at]
        keep = [0] * (self.exits - 1)
        for k, at in zip(self.keeping, point[self.at_keeps], strict=True):
            keep[k] = self.keeps[at]
        patiences, quorums, tops = self.common
        upper, lower = map(tuple, sides)
        return StoppingRule(patiences[point[0]], upper, lower, tuple(keep), quorums[point[1]], tops[point[2]])

    def families(self) -> Iterable[Point]:
        """Yields rules with one threshold for every open exit from some exit on: the same |c|, or the same position among an
        exit's own thresholds; for each patience and a few quorums. A threshold of 0 stops everything, so fixed depths are among
        them. And rules that from some exit on keep ever fewer candidates, a step fewer at each exit or as many at all."""
        firsts = _spread(self.open, FIRST_EXITS)
        finite = sorted({v for _, _, values in self.thresholds for v in values if not math.isinf(v)})
        shared = _spread(finite, SHARED)
        places = range(max(self.lengths[self.at_thresholds], default=1) - 1)
        quorums = _spread(list(range(self.lengths[1])), 3)
        for patience, quorum, first in itertools.product(range(self.lengths[0]), quorums, firsts):
            for t in shared:
                yield self._from(first, patience, quorum, [int(np.searchsorted(v, t)) for _, _, v in self.thresholds])
            for place in places:
                yield self._from(first, patience, quorum, [min(place, len(v) - 1) for _, _, v in self.thresholds])
        for begin, at, step in itertools.product(range(len(self.keeping)), range(len(self.keeps) - 1), (0, 1)):
            falling = [max(0, at - step * n) for n in range(len(self.keeping) - begin)]
            yield (*self.never[: -len(falling)], *falling)

    def _from(self, first: int, patience: int, quorum: int, at: Sequence[int]) -> Point:
        values = (i if k >= first else len(v) - 1 for (_, k, v), i in zip(self.thresholds, at, strict=True))
        return (patience, quorum, 0, *values, *self.never[self.at_keeps])

    def steps(self, point: Point, axis: int) -> Iterable[Point]:
        """Returns points with another value on one axis: all values, or the near ones and both ends where there are many axes."""
        here, length = point[axis], self.lengths[axis]
        if not self.many or axis < 3:
            others = list(range(length))
        else:
            others = sorted({at for at in (0, here - 3, here - 1, here + 1, here + 3, length - 1) if 0 <= at < length})
        return (moved(point, axis, at) for at in others if at != here)

    def trades(self, point: Point) -> Iterable[Point]:
        """Yields moves that no descent along single axes can make: one threshold or number to keep down, another up."""
        for down, up in itertools.permutations(() if self.many else range(3, len(self.lengths)), 2):
            if point[down] > 0 and point[up] + 1 < self.lengths[up]:
                yield moved(moved(point, down, point[down] - 1), up, point[up] + 1)


def moved(point: Point, axis: int, at: int) -> Point:
    """Returns the point with another position on one axis."""
    return (*point[:axis], at, *point[axis + 1 :])


def _spread(values: Sequence[Any], limit: int) -> list[Any]:
    """At most `limit` of the values, evenly spaced, with both ends."""
    return [values[i] for i in np.unique(np.linspace(0, len(values) - 1, limit).round().astype(int))] if values else []


class Search:
    """A search for cheap rules on the choosing users, which remembers all trials.

    It is deterministic: it draws no random numbers, and ties go to the lower drop, then to the earlier trial.
    """

    def __init__(self, evaluation: Evaluation, space: Space) -> None:
        self._evaluation, self._space = evaluation, space
        self._c = np.ascontiguousarray(evaluation.c)
        self._trials: dict[Point, Trial] = {}
        self._outcomes: dict[bytes, Outcome] = {}  # by where candidates stop: many rules stop them alike
        self.full = self._try(space.never)

    def stops(self, point: Point) -> NDArray[np.int64]:
        """Returns the exit of each pair, int64 [n]."""
        return self._space.rule(point).stops(self._c, self._evaluation.traces.offsets)

    def _try(self, point: Point) -> Trial:
        trial = self._trials.get(point)
        if trial is None:
            stops = self.stops(point)
            key = hashlib.blake2b(stops.astype(np.int8).tobytes(), digest_size=16).digest()
            if key not in self._outcomes:
                self._outcomes[key] = self._evaluation.outcome(stops)
            trial = self._trials[point] = Trial(point, self._space.rule(point), self._outcomes[key])
        return trial

    def explore(self) -> None:
        """Tries rules along the whole trade-off.

        1. Families with one threshold.
        2. For each price of a drop, low to high: coordinate descent on `cost / full cost + price * drop`, from the best rule so
           far by that objective. A price, unlike a budget, lets one exit give up quality while another wins it back.
        """
        if not self._space.open:
            return
        for point in self._space.families():
            self._try(point)
        for price in PRICES:
            objective = partial(self._priced, price)
            self._descend(min(self._trials.values(), key=objective), objective)

    def trade_off(self, budgets: Iterable[float]) -> dict[float, Trial]:
        """Returns the cheapest rule for each budget, which no metric is expected to drop by more than. Call `explore` first.

        Each budget gets descents of its own from the best trial so far, with trades in between, and may use the trials of the
        others, so a larger budget never gets a dearer rule.
        """
        objectives = {budget: partial(_within, budget) for budget in sorted(budgets)}
        for objective in objectives.values() if self._space.open else ():
            self._improve(min(self._trials.values(), key=objective), objective)
        return {budget: min(self._trials.values(), key=objective) for budget, objective in objectives.items()}

    def _improve(self, best: Trial, objective: Objective) -> None:
        for _ in range(MAX_PASSES):
            traded = min((self._descend(best, objective), *map(self._try, self._space.trades(best.point))), key=objective)
            if traded is best:
                break
            best = traded

    def _priced(self, price: float, trial: Trial) -> tuple[float, float]:
        drop = trial.outcome.drop
        return trial.outcome.cost_us / self.full.outcome.cost_us + price * max(0.0, drop), drop

    def _descend(self, best: Trial, objective: Objective) -> Trial:
        for _ in range(MAX_PASSES):
            before = best
            for axis in range(len(self._space.lengths)):
                best = min((best, *map(self._try, self._space.steps(best.point, axis))), key=objective)
            if best is before:
                break
        return best


def _within(budget: float, trial: Trial) -> tuple[float, float]:
    outcome = trial.outcome
    return (outcome.cost_us if outcome.drop <= budget else math.inf, outcome.drop)
