"""benchmarks/ranking/candidate_rules.py: who stops when, by rules that look at a candidate's place in its slate."""

import numpy as np
import pytest

from running.scripts import scripts_of

scripts = scripts_of("benchmarks/ranking")


@pytest.fixture
def rules():
    import candidate_rules

    return candidate_rules


@pytest.fixture
def slates(rules):
    """One of five candidates and one of three."""
    return rules.Slates(np.array([0, 5, 8]))


C = np.array([[5, 0], [4, 1], [3, 2], [2, 3], [1, 4], [0, 0], [1, 1], [2, 2]], np.float32)
"""Of two exits: the first slate's order turns round."""


def test_final_are_the_best_of_the_last_exit(rules, slates) -> None:
    assert rules.final(slates, C, 2)[slates.inside].tolist() == [False, False, False, True, True, False, True, True]
    assert rules.final(slates, C, 4)[slates.inside].tolist() == [False, True, True, True, True, True, True, True]


def test_a_share_of_each_slate_goes_on_but_never_less_than_k(rules, slates) -> None:
    half = next(iter(s for s in rules.by_rank(1) if s.args[0] == rules.SHARES[0]))
    assert half(slates, C).tolist() == [1, 0, 0, 0, 0, 0, 0, 1], "5 % of a slate is less than one"


def test_a_quorum_ends_a_slate(rules, slates) -> None:
    def worst(exit, now, before, running):
        return now <= 2

    assert rules.replay(slates, C, 0.0, worst).tolist() == [1, 1, 1, 0, 0, 0, 0, 0]
    assert rules.replay(slates, C, 0.6, worst).tolist() == [0] * 8
    assert rules.replay(slates, C, 0.5, worst).tolist() == [1, 1, 1, 0, 0, 0, 0, 0]


def test_models_know_who_surely_stays_out(rules) -> None:
    random = np.random.default_rng(0)
    last = random.normal(size=2000).astype(np.float32)
    c = np.stack([last + random.normal(scale=0.1, size=2000).astype(np.float32), last], 1)
    of_hundred = rules.Slates(np.arange(0, 2001, 100))
    now, final = of_hundred.rows(c[:, 0]), rules.final(of_hundred, c, 10)
    for model in (rules.Classifier(of_hundred, c, 10), rules.ByQuantiles(of_hundred, c, 10)):
        chance = model.chance(0, now, now)
        assert chance[final].mean() > 0.6 and chance[~final].mean() < 0.1
    low, high = model.interval(0, now, 0.1)
    inside = (low <= of_hundred.rows(last)) & (of_hundred.rows(last) <= high)
    assert 0.85 < inside.mean() < 0.95
