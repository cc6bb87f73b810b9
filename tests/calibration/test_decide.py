"""The decision on synthetic traces: what is promised holds on the split it was chosen on, and is told honestly on the other."""

import math

import numpy as np
import pytest

from builders.traces import even_costs, traces
from rexit.calibration.decide import back_to_full_depth, decide
from rexit.errors import InputError

LAYERS = (2, 4, 6)


def decided(noise, drop=0.002, users=300):
    return decide(traces(users, 10, noise, seed=1), traces(users, 10, noise, seed=2), even_costs(3), LAYERS, "digest", drop)


def test_good_early_heads_pay_and_stay_within_the_budget() -> None:
    made = decided([0.6, 0.3, 0.0], drop=0.01)
    full = made.fixed[6]
    assert made.pays and made.saving > 0.2
    assert made.chosen.validation.auc >= full.validation.auc - 0.01
    assert made.chosen.validation.cost_us == pytest.approx((1 - made.saving) * full.validation.cost_us)
    assert made.chosen.test.mean_layers < 6
    difference, low, high = made.auc_difference
    assert difference == pytest.approx(made.chosen.test.auc - full.test.auc, abs=1e-12)
    assert low <= difference <= high


def test_no_exit_pays_where_early_heads_know_nothing() -> None:
    made = decided([50.0, 50.0, 0.0], drop=0.0)
    assert not made.pays
    assert all(math.isinf(e.upper) and math.isinf(e.lower) for e in made.policy.exits)
    assert made.chosen == made.fixed[6]
    assert made.auc_difference == (0.0, 0.0, 0.0)


def test_no_exit_pays_where_depth_costs_nothing() -> None:
    noise = [0.0, 0.0, 0.0]
    free = even_costs(3, once=0.0, each=0.0)
    made = decide(traces(100, 10, noise, seed=1), traces(100, 10, noise, seed=2), free, LAYERS, "digest", 0.002)
    assert not made.pays and made.saving == 0


def test_backwards_head_never_stops() -> None:
    t = traces(200, 10, [0.2, 0.1, 0.0])
    t.log_odds[:, 0] *= -1
    made = decide(t, t, even_costs(3), LAYERS, "digest", 0.02)
    assert not made.maps[0].useful
    assert math.isinf(made.policy.exits[0].upper) and math.isinf(made.policy.exits[0].lower)
    assert made.pays and (made.policy.stops(t.log_odds, t.offsets) >= 1).all()


def test_maps_make_depths_comparable() -> None:
    """Heads on scales ten apart: ranking by raw log-odds would be ruined, ranking by c is not."""
    parts = []
    for seed in (1, 2):
        t = traces(300, 10, [1.5, 0.5, 0.0], seed=seed)
        t.log_odds[:] = t.log_odds * np.array([10, 1, 0.1], np.float32) + np.array([-7, 3, 0], np.float32)
        parts.append(t)
    made = decide(*parts, even_costs(3), LAYERS, "digest", 0.01)
    stops = made.policy.stops(parts[1].log_odds, parts[1].offsets)
    assert len(np.unique(stops)) > 1
    assert made.chosen.test.auc > made.fixed[6].test.auc - 0.02


def test_budget_is_monotone_in_cost_and_curve_holds_its_budgets() -> None:
    made = decided([1.0, 0.5, 0.0])
    budgets = sorted(made.curve)
    costs = [made.curve[b].validation.cost_us for b in budgets]
    assert costs == sorted(costs, reverse=True)
    for budget in budgets:
        assert made.curve[budget].validation.auc >= made.fixed[6].validation.auc - budget - 1e-12


def test_test_split_has_no_say() -> None:
    noise = [0.6, 0.3, 0.0]
    first, second = (
        decide(traces(200, 10, noise, seed=1), traces(200, 10, noise, seed=s), even_costs(3), LAYERS, "digest", 0.01)
        for s in (2, 3)
    )
    assert first.policy == second.policy
    assert first.chosen.test != second.chosen.test


def test_back_to_full_depth() -> None:
    made = decided([0.6, 0.3, 0.0], drop=0.01)
    back = back_to_full_depth(made, LAYERS)
    assert not back.pays and back.chosen == made.fixed[6]
    assert (back.policy.stops(np.full((3, 3), 99, np.float32), np.array([0, 3])) == 2).all()


@pytest.mark.parametrize("drop", [-0.001, 0.5, float("nan")])
def test_impossible_budget(drop: float) -> None:
    t = traces(5, 10, [0.6, 0.3, 0.0])
    with pytest.raises(InputError, match="max AUC drop"):
        decide(t, t, even_costs(3), LAYERS, "digest", drop)
