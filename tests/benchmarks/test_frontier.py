"""benchmarks/ranking/frontier.py: which fixed depth a policy is held against, and what several seeds come to."""

import numpy as np
import pytest

from running.scripts import scripts_of

scripts = scripts_of("benchmarks/ranking")


@pytest.fixture
def frontier():
    import frontier

    return frontier


def point(frontier, ndcg: float, cost: float, layers: float = 1.0):
    values = np.full((3, 4), np.nan)
    values[:, 2] = ndcg
    return frontier.Point(layers, cost, frontier.Measured(values))


def test_rival_is_the_best_fixed_depth_of_no_more_cost_and_not_the_dearest(frontier) -> None:
    fixed = {1: point(frontier, 0.4, 0.1), 2: point(frontier, 0.3, 0.2), 4: point(frontier, 0.9, 0.4)}
    assert frontier.rival(point(frontier, 0.5, 0.3), fixed) == 1
    assert frontier.rival(point(frontier, 0.5, 0.4), fixed) == 4
    assert frontier.rival(point(frontier, 0.5, 0.05), fixed) is None


def test_seeds_are_averaged_where_all_have_a_policy(frontier) -> None:
    def seed(ndcg: float, budgets: tuple[float, ...]):
        policies = {budget: point(frontier, ndcg, 0.2, 2 * ndcg) for budget in budgets}
        return frontier.Seed(point(frontier, ndcg, 1.0), {1: point(frontier, ndcg, 0.1)}, policies)

    both = frontier.over_seeds([seed(0.2, (0.1, 0.2)), seed(0.4, (0.2, 0.3))])
    assert list(both.policies) == [0.2]
    assert both.policies[0.2].layers == pytest.approx(0.6)
    assert both.full.judged.interval()["ndcg@10"] == pytest.approx((0.3, 0.3, 0.3))
