"""The cheapest thresholds and patience with which the ranking stays as good as required."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from rexit.calibration.evaluate import at_exit
from rexit.calibration.traces import Traces
from rexit.measure.costs import Costs
from rexit.ranking import auc

QUANTILES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
PRICES = tuple(10.0**x for x in np.linspace(0.5, 4.5, 9))
MAX_PATIENCE = 3
MAX_PASSES = 4


@dataclass(frozen=True)
class Rule:
    """Stops at exit k < E-1 when c >= upper[k] or c <= -lower[k] (inf: never), once `patience` heads in a row agree on its
    sign."""

    patience: int
    upper: tuple[float, ...]
    lower: tuple[float, ...]

    def with_side(self, side: int, k: int, value: float) -> Rule:
        """The same rule with one threshold changed: side 0 is upper, 1 is lower."""
        changed = (*self.sides[side][:k], value, *self.sides[side][k + 1 :])
        return replace(self, upper=changed) if side == 0 else replace(self, lower=changed)

    @property
    def sides(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        return self.upper, self.lower


@dataclass(frozen=True)
class Found:
    """A rule and what it does on the pairs searched: cost in microseconds per slate, AUC over all pairs."""

    rule: Rule
    cost_us: float
    auc: float


Objective = Callable[[Found], tuple[float, float]]
"""What a descent minimises; the second number breaks ties."""


def grid(c: NDArray[np.float32]) -> tuple[float, ...]:
    """Thresholds worth trying for one side of one exit: 0 (always), eleven quantiles of the c on that side, infinity (never).

    Quantiles of the data rather than even steps, so that each step moves a similar number of candidates; rounded to float32,
    the runtime's precision. c float32 [n], with its sign flipped for the lower side.
    """
    caught = c[c > 0]
    inner = np.unique(np.quantile(caught, QUANTILES).astype(np.float32)).tolist() if len(caught) else []
    return (0.0, *inner, math.inf)


class Search:
    """All rules tried so far on one split. c float32 [n, E], calibrated; useful bool [E]: False for exits that must never stop.

    `grids[side][k]` gives other thresholds to try. Deterministic: no random numbers; ties go to the higher AUC, then to the rule
    found first.
    """

    def __init__(
        self,
        traces: Traces,
        c: NDArray[np.float32],
        useful: Sequence[bool],
        costs: Costs,
        grids: Sequence[Sequence[Sequence[float]]] | None = None,
    ) -> None:
        self._traces, self._c, self._costs = traces, c, costs
        self._open = [k for k in range(traces.exits - 1) if useful[k]]
        self._grids = grids or [[grid(sign * c[:, k]) for k in range(traces.exits - 1)] for sign in (1, -1)]
        agree = np.ones(c.shape, np.int64)
        for k in range(1, traces.exits):
            agree[:, k] = np.where((c[:, k] >= 0) == (c[:, k - 1] >= 0), agree[:, k - 1] + 1, 1)
        self._patiences = range(1, min(MAX_PATIENCE, traces.exits) + 1)
        self._agreed = {p: agree[:, :-1] >= p for p in self._patiences}
        self._found: dict[Rule, Found] = {}
        never = (math.inf,) * (traces.exits - 1)
        self.full = self._try(Rule(1, never, never))

    def stops(self, rule: Rule) -> NDArray[np.int64]:
        """The exit each pair stops at: int64 [n]. Same as `Policy.stops`, but agreement between heads is counted once for all
        rules."""
        early = self._c[:, :-1]
        stop = np.ones(self._c.shape, np.bool_)
        beyond = (early >= np.array(rule.upper, np.float32)) | (early <= -np.array(rule.lower, np.float32))
        stop[:, :-1] = beyond & self._agreed[rule.patience]
        return np.asarray(stop.argmax(1), np.int64)

    def _try(self, rule: Rule) -> Found:
        found = self._found.get(rule)
        if found is None:
            stops = self.stops(rule)
            score = at_exit(self._c, stops)
            found = Found(rule, self._costs.mean(stops, self._traces.offsets), auc(score, self._traces.liked))
            self._found[rule] = found
        return found

    def explore(self) -> None:
        """Tries rules along the whole trade-off.

        1. One-parameter families: the same |c| threshold at every exit from the k-th on, for each k and patience. They include
           fixed depths and the paper's ratio criterion.
        2. For each patience and each price of AUC, low to high: coordinate descent on `cost / full cost + price * AUC lost`,
           from the best rule so far by that objective. The price, unlike a budget, lets one exit give up AUC while another wins
           it back.
        """
        if not self._open:
            return
        thresholds = sorted({t for k in self._open for side in self._grids for t in side[k] if not math.isinf(t)})
        thresholds = thresholds[:: max(1, len(thresholds) // 24)]
        exits = range(self._traces.exits - 1)
        for patience in self._patiences:
            for first in self._open:
                for t in thresholds:
                    same = tuple(t if k >= first and k in self._open else math.inf for k in exits)
                    self._try(Rule(patience, same, same))
        for patience in self._patiences:
            for price in PRICES:
                objective = partial(self._priced, price)
                self._descend(min((f for f in self._found.values() if f.rule.patience == patience), key=objective), objective)

    def _priced(self, price: float, found: Found) -> tuple[float, float]:
        return found.cost_us / self.full.cost_us + price * max(0.0, self.full.auc - found.auc), -found.auc

    def _within(self, max_auc_drop: float, found: Found) -> tuple[float, float]:
        return (found.cost_us, -found.auc) if found.auc >= self.full.auc - max_auc_drop else (math.inf, -found.auc)

    def _descend(self, best: Found, objective: Objective) -> Found:
        for _ in range(MAX_PASSES):
            before = best
            for k in self._open:
                for side in (0, 1):
                    tried = [self._try(best.rule.with_side(side, k, value)) for value in self._grids[side][k]]
                    best = min((best, *tried), key=objective)
            if best is before:
                break
        return best

    def _trade(self, best: Found, objective: Objective) -> Found:
        """Moves that a descent along single thresholds cannot make: another patience, or one threshold a step down and another
        one a step up."""
        tried = [self._try(replace(best.rule, patience=p)) for p in self._patiences]
        sides = [(side, k) for side in (0, 1) for k in self._open]
        for down, up in itertools.permutations(sides, 2):
            if (lower := self._step(best.rule, *down, -1)) and (both := self._step(lower, *up, 1)):
                tried.append(self._try(both))
        return min((best, *tried), key=objective)

    def _step(self, rule: Rule, side: int, k: int, by: int) -> Rule | None:
        values, now = self._grids[side][k], rule.sides[side][k]
        at = bisect.bisect_left(values, now) - 1 if by < 0 else bisect.bisect_right(values, now)
        return rule.with_side(side, k, values[at]) if 0 <= at < len(values) else None

    def trade_off(self, budgets: Iterable[float]) -> dict[float, Found]:
        """The cheapest rule for each budget: its AUC here is at least full depth's minus the budget. Call `explore` first.

        Each budget gets its own descents, with trades in between, and may use what the others found, so a larger budget never
        costs more.
        """
        objectives = {budget: partial(self._within, budget) for budget in sorted(budgets)}
        for objective in objectives.values():
            best = min(self._found.values(), key=objective)
            for _ in range(MAX_PASSES):
                traded = self._trade(self._descend(best, objective), objective)
                if traded == best:
                    break
                best = traded
        return {budget: min(self._found.values(), key=objective) for budget, objective in objectives.items()}
