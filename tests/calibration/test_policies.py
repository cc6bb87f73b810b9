"""Which policies are tested, and in which order."""

import numpy as np
import pytest
from scipy.special import ndtri

from builders.decisions import decide_on
from builders.traces import traces
from rexit.calibration import certify
from rexit.calibration.evaluation import Evaluation
from rexit.calibration.goal import Goal
from rexit.calibration.maps import apply
from rexit.calibration.metrics import parse
from rexit.calibration.policies import in_order, margin
from rexit.calibration.traces import split_users
from rexit.upkeep.audit.betting import Tail


@pytest.mark.parametrize(
    ("costs", "margins", "order"),
    [
        ([9, 5, 1], [5.0, 4.5, -1.0], [1, 2]),  # the first two pass nearly surely, so the dearer one need not be tested
        ([9, 5, 1], [4.0, 0.5, -1.0], [0, 1, 2]),
        ([9, 5, 1], [0.5, 1.0, -1.0], [1, 2]),  # what is dearer and less likely is never tested
        ([9, 8.9, 1], [4.0, 0.5, -1.0], [0, 2]),  # a test that saves too little
        ([9, 5, 1], [-50.0, -40.0, -60.0], [1]),  # float64 does not tell their chances from 0
        ([9, 5, 1], [4.0, 0.5, -2.4], [0, 1]),  # the third has a chance of 0.008
        ([9, 0, 0], [0.0, -1.0, np.inf], [2]),
        ([9, 5], [-np.inf, -np.inf], [1]),
        ([], [], []),
    ],
)
def test_the_likeliest_to_pass_is_first_and_each_other_is_cheaper(
    costs: list[float], margins: list[float], order: list[int]
) -> None:
    assert in_order(costs, margins) == order


def test_the_hardest_test_counts() -> None:
    """Each metric, over users and over pairs, and the tail; fewer users make each harder."""
    validation = traces(900, 10, [0.6, 0.0], seed=3)
    choosing, maps = split_users(validation)[0], decide_on(validation, Goal((parse("ndcg@5"),), 0.04)).choice.maps
    c = apply(maps, choosing.log_odds)
    names = ("ndcg@5", "user-auc", "auc")
    evaluation = Evaluation(choosing, c, (2, 4), None, [parse(name) for name in names])
    score, many, few = c[:, 0], dict.fromkeys(names, 500), dict.fromkeys(names, 100)

    def of(goal: Goal, users: dict[str, int], drop: float = 0.01) -> float:
        return margin(evaluation, score, [drop] * len(goal.metrics), goal, users)

    alone = [of(Goal((parse(name),), 0.04), many) for name in names]
    assert of(Goal(tuple(map(parse, names)), 0.04), many) == min(alone)
    assert all(of(Goal((parse(name),), 0.04), few) < margin for name, margin in zip(names, alone, strict=True))
    assert all(of(Goal((parse(name),), 0.04), many, 0.03) < margin for name, margin in zip(names, alone, strict=True))
    assert of(Goal((parse("ndcg@5"),), 0.04, tail=Tail(0.01, 0.0)), many) < alone[0]


def test_a_margin_of_a_tail_says_how_likely_users_certify() -> None:
    random = np.random.default_rng(1)
    draws = random.random((500, 400)) < 0.03
    share = np.mean([certify.tail_p_value(draw.astype(float), 0.05, 0.5) <= 0.05 for draw in draws])
    assert ndtri(share - 0.1) < certify.tail_margin(0.03, 0.05, 400) < ndtri(share + 0.1)
