"""The search against brute force, known optima and its own promises."""

import itertools
import math
import time

import numpy as np
import pytest

from builders.traces import even_costs, traces
from rexit.calibration.evaluation import Evaluation
from rexit.calibration.metrics import parse
from rexit.calibration.search import Search, Space, StoppingRule
from rexit.format.bundle import ExitPolicy, Policy, TopK
from running.fast import fast

BUDGETS = (0.0, 0.001, 0.002, 0.005, 0.01, 0.03)
METRICS = (parse("ndcg@5"), parse("user-auc"))


def evaluation(t, costs=None) -> Evaluation:
    return Evaluation(t, t.log_odds, range(1, t.exits + 1), costs or even_costs(t.exits), METRICS)


def explored(t, costs=None, useful=None, **space) -> Search:
    search = Search(evaluation(t, costs), Space(t.log_odds, useful or [True] * t.exits, **space))
    search.explore()
    return search


def as_policy(rule: StoppingRule) -> Policy:
    exits = [ExitPolicy(1, 0, u, w, keep=m) for u, w, m in zip(rule.upper, rule.lower, rule.keep, strict=True)]
    return Policy((*exits, ExitPolicy()), rule.patience, "", rule.quorum, rule.top_k)


def test_rule_stops_where_the_policy_stops() -> None:
    t = traces(40, 10, [2, 1.5, 1, 0.5])
    tops = [None, *(TopK(3, ordered, (1.0, 0.8, 0.5), (0.9, 0.8, 0.7)) for ordered in (True, False))]
    space = Space(t.log_odds, [True, False, True, True], tops, places=3)
    search, random = Search(evaluation(t), space), np.random.default_rng(0)
    kinds = set()
    for _ in range(120):
        point = tuple(int(random.integers(length)) for length in space.lengths)
        rule = space.rule(point)
        stops = search.stops(point)
        np.testing.assert_array_equal(stops, as_policy(rule).stops(t.log_odds, t.offsets))
        assert math.isinf(rule.upper[1]) and math.isinf(rule.lower[1]), "a useless exit"
        kinds.add((rule.patience, rule.quorum > 0, rule.top_k is not None, any(rule.keep)))
    assert len(kinds) >= 12 and len({kind[3] for kind in kinds}) == 2, "not all kinds of rules were drawn"


@pytest.mark.medium
@pytest.mark.parametrize("seed", fast(range(6), 0, 1))
def test_close_to_brute_force(seed: int) -> None:
    """On every rule of a small space: at each budget, the search finds the cheapest or one within 4 % of it, on average 1 %."""
    t = traces(40, 10, [1.5, 0.8, 0.0], seed=seed)
    values = (0.0, 0.5, 1.0, 1.5, 2.5, math.inf)
    space = {"quorums": (0.0, 0.2), "grids": [[values] * 2] * 2}
    search = explored(t, **space)
    judged, every = evaluation(t), Space(t.log_odds, [True] * 3, **space)
    outcomes = [judged.outcome(search.stops(point)) for point in itertools.product(*map(range, every.lengths))]
    over = []
    for budget, trial in search.trade_off(BUDGETS).items():
        best = min(outcome.cost_us for outcome in outcomes if outcome.drop <= budget)
        assert best <= trial.outcome.cost_us * (1 + 1e-9), "better than brute force: one of the two counts wrongly"
        assert trial.outcome.drop <= budget
        over.append(trial.outcome.cost_us / best)
    assert max(over) <= 1.04 and np.mean(over) <= 1.01


def test_finds_the_optimum_where_the_first_head_is_as_good_as_the_last() -> None:
    search = explored(traces(200, 10, [0.0, 0.0, 0.0]))
    trial = search.trade_off([0.0])[0.0]
    assert (search.stops(trial.point) == 0).all()
    assert trial.outcome.cost_us == pytest.approx(5 + 10 + 10 * 10)


@pytest.mark.medium
def test_a_good_first_head_keeps_a_few_for_the_others() -> None:
    """Where only the best places count, most candidates can stop at an exit whose c is far from any threshold."""
    t = traces(200, 30, [0.8, 0.4, 0.0])
    found = []
    for places in (None, 5):
        of_top = Evaluation(t, t.log_odds, (1, 2, 3), even_costs(3), METRICS[:1])
        search = Search(of_top, Space(t.log_odds, [True] * 3, places=places))
        search.explore()
        found.append(search.trade_off([0.01])[0.01])
    plain, kept = found
    assert any(kept.rule.keep) and kept.outcome.drop <= 0.01
    assert kept.outcome.cost_us < 0.97 * plain.outcome.cost_us, (plain, kept)


def test_confident_first_head_with_a_blind_spot() -> None:
    """Exit 0 knows the place for sure where |z| = 4 and nothing where |z| < 1: the threshold must fall between."""
    random = np.random.default_rng(3)
    n = 4000
    known = random.random(n) < 0.6
    liked = random.random(n) < 0.5
    sure = np.where(liked, 4.0, -4.0) + random.normal(0, 0.1, n)
    sure = np.where(known, sure, random.uniform(-2, 2, n))
    first = np.where(known, sure, random.uniform(-1, 1, n))
    t = traces(400, 10, [0.0, 0.0])
    t = type(t)(np.stack([first, sure], 1).astype(np.float32), liked, t.users, t.offsets, t.ids)
    search = explored(t, quorums=(0.0,))
    trial = search.trade_off([0.0])[0.0]
    stopped = search.stops(trial.point) == 0
    assert not (stopped & ~known).any()
    assert stopped.sum() > 0.9 * known.sum()  # a step of the grid is 6 % of the pairs


def test_a_quorum_pays_where_the_prefix_is_dear() -> None:
    """One straggler drags the prefix deeper: with a dear prefix the cheapest rule lets it stop with the others."""
    t, dear = traces(100, 20, [0.8, 0.4, 0.0], slate=20), even_costs(3, once=1000.0, each=1.0)
    with_quorum, without = (explored(t, dear, **space).trade_off([0.01])[0.01] for space in ({}, {"quorums": (0.0,)}))
    assert with_quorum.rule.quorum > 0
    assert with_quorum.outcome.cost_us < 0.97 * without.outcome.cost_us


def test_without_an_open_exit_there_is_full_depth() -> None:
    search = explored(traces(20, 10, [1.0, 0.0]), useful=[False, True])
    assert search.trade_off([0.1])[0.1] is search.full
    assert (search.stops(search.full.point) == 1).all()


@pytest.mark.slow
def test_forty_thousand_pairs_and_thirty_exits_in_time() -> None:
    """As much as a choosing part ever has: of 100,000 pairs the others certify."""
    t = traces(2000, 20, np.linspace(2, 0, 30).tolist(), slate=20)
    begin = time.process_time()
    explored(t).trade_off(BUDGETS)
    assert time.process_time() - begin < 120
