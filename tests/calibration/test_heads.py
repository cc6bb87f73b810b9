"""Which heads to keep: those that know something the others do not."""

import numpy as np
import pytest

from builders.traces import even_costs, traces
from rexit.calibration.choose.evaluate import Evaluation
from rexit.calibration.choose.heads import eliminate
from rexit.calibration.choose.search import Search, Space
from rexit.calibration.metrics import parse


def evaluation(noise, users: int = 60) -> Evaluation:
    t = traces(users, 10, noise)
    return Evaluation(t, t.log_odds, range(1, t.exits + 1), even_costs(t.exits), [parse("user-auc")])


def test_a_head_that_knows_nothing_new_is_not_worth_keeping() -> None:
    """The second head is as noisy as the first and costs more; the third knows all there is."""
    steps, suggested = eliminate(evaluation([0.8, 0.8, 0.0, 0.0]), [True] * 4, 0.01)
    assert [len(step.exits) for step in steps] == [4, 3, 2, 1]
    assert [step.exits for step in steps][-1] == (3,)
    assert 1 not in suggested.exits and 2 in suggested.exits and suggested.exits[-1] == 3
    costs = [step.cost_us for step in steps]
    assert costs[-1] > 1.2 * costs[0], "full depth alone is dear here"
    assert suggested.cost_us <= 1.01 * costs[0]


def test_useless_heads_are_never_kept() -> None:
    steps, _ = eliminate(evaluation([0.5, 0.3, 0.0]), [False, True, True], 0.01)
    assert [step.exits for step in steps] == [(1, 2), (2,)]


@pytest.mark.slow
def test_of_many_heads_a_quarter_goes_at_once() -> None:
    steps, suggested = eliminate(evaluation(np.linspace(1.5, 0, 12).tolist(), users=20), [True] * 12, 0.02)
    assert [len(step.exits) for step in steps] == [12, 10, *range(8, 0, -1)]
    assert len(suggested.exits) < 12


def test_costs_without_an_exit_are_those_of_rules_that_never_stop_there() -> None:
    judged = evaluation([0.8, 0.3, 0.0])
    search = Search(judged, Space(judged.c, [True] * 3))
    search.explore()
    best = search.trade_off([0.01])[0.01].outcome.cost_us
    without = search.costs_without(0.01)
    assert set(without) == {0, 1} and min(without.values()) >= best - 1e-9
    closed = Search(judged, Space(judged.c, [False, True, True]))
    closed.explore()
    assert without[0] == pytest.approx(closed.trade_off([0.01])[0.01].outcome.cost_us, rel=0.1)
