"""The search against brute force, known optima and its own promises."""

import itertools
import math
import time

import numpy as np
import pytest

from builders.traces import even_costs, traces
from rexit.bundle import ExitPolicy, Policy
from rexit.calibration.evaluate import at_exit
from rexit.calibration.search import Rule, Search
from rexit.ranking import auc

BUDGETS = (0.0, 0.001, 0.002, 0.005, 0.01, 0.03)


def search(t, costs=None, useful=None, grids=None) -> Search:
    exits = t.exits
    made = Search(t, t.log_odds, useful or [True] * exits, costs or even_costs(exits), grids)
    made.explore()
    return made


def test_rule_stops_where_the_policy_stops() -> None:
    t = traces(40, 10, [2, 1.5, 1, 0.5])
    made = Search(t, t.log_odds, [True] * 4, even_costs(4))
    random = np.random.default_rng(0)
    for patience in (1, 2, 3):
        upper, lower = (tuple(np.float32(random.uniform(0, 2, 3)).tolist()) for _ in range(2))
        rule = Rule(patience, upper, (*lower[:2], math.inf))
        policy = Policy(
            (*(ExitPolicy(1, 0, u, w) for u, w in zip(rule.upper, rule.lower, strict=True)), ExitPolicy()), patience, ""
        )
        np.testing.assert_array_equal(made.stops(rule), policy.stops(t.log_odds, t.offsets))


@pytest.mark.parametrize("seed", range(6))
def test_close_to_brute_force(seed: int) -> None:
    """On every rule of a small grid: at each budget, the search finds the cheapest or one within 2 % of it."""
    t = traces(40, 10, [1.5, 0.8, 0.0], seed=seed)
    costs = even_costs(3)
    values = (0.0, 0.5, 1.0, 1.5, 2.5, math.inf)
    made = search(t, costs, grids=[[values] * 2] * 2)
    everything = []
    for patience, *sides in itertools.product((1, 2, 3), *[values] * 4):
        rule = Rule(patience, (sides[0], sides[1]), (sides[2], sides[3]))
        stops = made.stops(rule)
        everything.append((costs.mean(stops, t.offsets), auc(at_exit(t.log_odds, stops), t.liked)))
    for budget, found in made.trade_off(BUDGETS).items():
        best = min(cost for cost, quality in everything if quality >= made.full.auc - budget)
        assert best <= found.cost_us * (1 + 1e-9), "better than brute force: one of the two counts wrongly"
        assert found.cost_us <= best * 1.02
        assert found.auc >= made.full.auc - budget


def test_finds_the_optimum_where_the_first_head_is_as_good_as_the_last() -> None:
    t = traces(200, 10, [0.0, 0.0, 0.0])
    made = search(t)
    found = made.trade_off([0.0])[0.0]
    assert (made.stops(found.rule) == 0).all()
    assert found.cost_us == pytest.approx(5 + 10 + 10 * 10)


def test_confident_first_head_with_a_blind_spot() -> None:
    """Exit 0 knows the sign for sure where |z| = 4 and nothing where |z| < 1: the threshold must fall between."""
    random = np.random.default_rng(3)
    n = 4000
    known = random.random(n) < 0.6
    liked = random.random(n) < 0.5
    sure = np.where(liked, 4.0, -4.0) + random.normal(0, 0.1, n)
    first = np.where(known, sure, random.uniform(-1, 1, n))
    t = traces(400, 10, [0.0, 0.0])
    t = type(t)(np.stack([first, sure], 1).astype(np.float32), liked, t.users, t.offsets)
    made = search(t)
    found = made.trade_off([0.0])[0.0]
    stopped = made.stops(found.rule) == 0
    assert not (stopped & ~known).any()
    assert stopped.sum() > 0.99 * known.sum()


def test_more_budget_never_costs_more() -> None:
    for seed in range(4):
        found = search(traces(60, 10, [3, 2, 1, 0], seed=seed)).trade_off(BUDGETS)
        costs = [found[b].cost_us for b in BUDGETS]
        assert costs == sorted(costs, reverse=True)
        assert costs[-1] < costs[0]


def test_useless_exit_never_stops() -> None:
    t = traces(60, 10, [0.0, 0.0, 0.0])
    made = search(t, useful=[False, True, True])
    found = made.trade_off([0.02])[0.02]
    assert found.rule.upper[0] == found.rule.lower[0] == math.inf
    assert made.stops(found.rule).min() == 1


def test_is_deterministic() -> None:
    t = traces(60, 10, [2, 1, 0])
    assert search(t).trade_off(BUDGETS) == search(t).trade_off(BUDGETS)


def test_ten_thousand_pairs_and_six_exits_in_time() -> None:
    t = traces(1000, 10, [2, 1.5, 1, 0.7, 0.4, 0])
    begin = time.process_time()
    search(t).trade_off(BUDGETS)
    assert time.process_time() - begin < 40
