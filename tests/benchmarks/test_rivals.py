"""benchmarks/ranking/rivals.py: where each rule stops whom, on slates that fit in a line, and a division from end to end."""

from types import SimpleNamespace

import numpy as np
import pytest

from builders.traces import even_costs, traces
from rexit.calibration.evaluation import Evaluation
from rexit.calibration.goal import Goal
from rexit.calibration.metrics import parse
from rexit.calibration.traces import Traces
from running.scripts import scripts_of

scripts = scripts_of("benchmarks/ranking")
NDCG = parse("ndcg@3")


@pytest.fixture
def rivals():
    import rivals

    return rivals


def evaluation(*columns: list[float], sizes: tuple[int, ...] = ()) -> Evaluation:
    """One slate, or several, with log-odds by exit."""
    c = np.array(columns, np.float32).T
    sizes = sizes or (len(c),)
    offsets, users = np.cumsum([0, *sizes]), np.repeat(np.arange(len(sizes)), sizes)
    t = Traces(c, np.arange(len(c)) % 2 == 0, users, offsets, tuple(range(len(sizes))))
    return Evaluation(t, c, range(1, len(columns) + 1), even_costs(len(columns)), (NDCG,))


def test_clusters_are_those_of_k_means_the_highest_first(rivals) -> None:
    values = np.array([[0.9, 5.1, 1.0, 5.0, -np.inf], [3.0, 2.0, 2.1, 8.0, 8.1]])
    assert rivals.clusters(values, 2).tolist() == [[1, 0, 1, 0, 2], [1, 1, 1, 0, 0]]
    assert rivals.clusters(values[1:], 3).tolist() == [[1, 2, 2, 0, 0]]


@pytest.mark.parametrize(
    ("k", "stops", "tiers"),
    [
        (2, [0, 0, 0, 0, 0], [1, 1, -1, -1, -1]),  # the upper cluster fills the places
        (1, [2, 2, 0, 0, 0], [0, 0, -1, -1, -1]),  # and is divided by none, as both heads see two alike
        (3, [0, 0, 1, 1, 1], [1, 1, 1, -1, -1]),  # the second exit tells who is third
    ],
)
def test_prism_decides_clusters_and_goes_on_with_the_one_between(rivals, k: int, stops: list[int], tiers: list[int]) -> None:
    of = evaluation([5, 5, -5, -5, -5], [5, 5, 5, -5, -5], [0, 0, 0, 0, 0])
    at, tier = rivals.prism(k, 0.0, 2, False, True, of)
    assert (at.tolist(), tier.tolist()) == (stops, tiers)


def test_prism_waits_until_scores_differ(rivals) -> None:
    assert rivals.prism(2, 9.0, 2, False, True, evaluation([5, 5, -5], [5, 5, -5]))[0].tolist() == [1, 1, 1]
    at, tier = rivals.prism(2, 0.0, 2, False, False, evaluation([5, 4, 0, -5], [5, 5, -5, -5], [0, 0, 0, 0]))
    assert (at.tolist(), tier.tolist()) == ([1, 1, 1, 0], [0, 0, -1, -1]), "without accepting they end together"


def test_filters_of_the_first_stage(rivals) -> None:
    of = evaluation([10, 9, 5, 0, 1, 2], [0, 0, 0, 0, 0, 0], sizes=(4, 2))
    assert rivals.best(1, of).tolist() == [True, False, False, False, False, True]
    assert rivals.above(5, of).tolist() == [True, True, True, False, False, False]
    assert rivals.near(0.0, 2, of).tolist() == [True, True, False, False, True, True]
    assert rivals.near(0.45, 2, of).tolist() == [True, True, True, False, True, True]
    stops, tiers = rivals.cut(lambda of: rivals.best(1, of), 1, of)
    assert (stops.tolist(), tiers.tolist()) == ([1, 0, 0, 0, 0, 1], [0, -1, -1, -1, -1, 0])


@pytest.mark.medium
def test_every_rule_is_certified_on_users_who_did_not_choose_it(rivals) -> None:
    validation, test = (traces(400, 12, (1.0, 0.3, 0.0), seed=seed, slate=12) for seed in (1, 2))
    goal, bundle = Goal((NDCG,), 0.1), SimpleNamespace(exits=(0, 1, 2), variant_sha256="digest")
    results = rivals.division(0, validation, test, even_costs(3), bundle, goal)
    assert list(results) == ["fixed depth", "cut at m candidates", "cut at a threshold", "SEE", "PRISM", "rexit"]
    for result in results.values():
        assert result.certified == (result.cost < 1), "full depth is what nothing certified leaves"
        assert result.losses.mean() < 0.1
    assert results["rexit"].cost <= 1.02 * min(result.cost for result in results.values())
    text = rivals.table([results, results]).columns
    assert [len(list(column.cells)) for column in text] == [6] * 5
