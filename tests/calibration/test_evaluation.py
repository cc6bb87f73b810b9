"""A policy on a split: layers and costs by hand, expected losses against labels drawn many times."""

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray

from builders.traces import even_costs, traces
from rexit.calibration.evaluation import Evaluation, Expectation
from rexit.calibration.metrics import Judge, parse
from rexit.calibration.traces import Traces
from rexit.format.bundle import ExitPolicy, Policy

NAMES = ("ndcg@3", "user-auc", "auc", "logloss")


def expectation(t: Traces, full: NDArray[np.float32]) -> Expectation:
    return Expectation(t, full, Judge(t.users, t.liked, t.offsets, full))


def test_counts_layers_and_costs_where_each_candidate_stops() -> None:
    t = traces(50, 10, [1.0, 0.5, 0.0])
    policy = Policy((ExitPolicy(upper=1.0, lower=1.0), ExitPolicy(), ExitPolicy()), 1, "")
    early = np.abs(t.log_odds[:, 0]) >= 1
    evaluation = Evaluation(t, t.log_odds, (2, 4, 6), even_costs(3), [parse("user-auc")])
    outcome = evaluation.outcome(policy.stops(t.log_odds, t.offsets))
    assert outcome.mean_layers == pytest.approx(2 * early.mean() + 6 * (1 - early.mean()))
    per_slate = (1 - early).reshape(-1, 10)
    expected = 5 + (10 + 20 * (per_slate.max(1) > 0) + 10 * (1 + 2 * per_slate).sum(1)).mean()
    assert outcome.cost_us == pytest.approx(expected)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_expected_to_be_lost_is_the_mean_over_labels(name: str) -> None:
    """Labels drawn 400 times from full depth's probabilities: what the labels say is lost comes to what was expected."""
    t = traces(40, 10, [1.5, 0.0])
    full, score = np.ascontiguousarray(t.log_odds[:, 1]), np.ascontiguousarray(t.log_odds[:, 0])
    metric, random = parse(name), np.random.default_rng(0)
    drops = [
        Judge(t.users, random.random(len(full)) < 1 / (1 + np.exp(-full)), t.offsets, full).drop(metric, score)
        for _ in range(400)
    ]
    expected = expectation(t, full).drops([metric], score)[0]
    error = np.std(drops) / 20
    # A ratio's mean is not the ratio of means: per user, NDCG and AUC divide by what the labels of that user allow.
    assert expected == pytest.approx(np.mean(drops), abs=4 * error + 0.1 * abs(expected))
    assert expected > 5 * error


@pytest.mark.parametrize("name", NAMES)
def test_slates_of_a_user_may_lie_apart(name: str) -> None:
    """Every user's first pair, then every user's second, and so on."""
    t = traces(40, 10, [1.5, 0.0])
    order = np.arange(400).reshape(40, 10).T.ravel()
    apart = dataclasses.replace(t, users=t.users[order], liked=t.liked[order], log_odds=t.log_odds[order])
    drops = [
        expectation(split, np.ascontiguousarray(split.log_odds[:, 1])).drops(
            [parse(name)], np.ascontiguousarray(split.log_odds[:, 0])
        )
        for split in (t, apart)
    ]
    assert drops[1] == pytest.approx(drops[0])


@pytest.mark.parametrize("name", [*NAMES, "agreement", "top-k-overlap@3"])
def test_full_depth_loses_nothing_and_every_other_ranking_something(name: str) -> None:
    t = traces(40, 10, [1.5, 0.5, 0.0])
    full = np.ascontiguousarray(t.log_odds[:, 2])
    drops = [expectation(t, full).drops([parse(name)], np.ascontiguousarray(t.log_odds[:, k]))[0] for k in range(3)]
    assert drops[0] > drops[1] > drops[2] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("name", ["agreement", "top-k-overlap@3"])
def test_what_needs_no_labels_is_as_measured(name: str) -> None:
    t = traces(40, 10, [1.5, 0.0])
    full, score = np.ascontiguousarray(t.log_odds[:, 1]), np.ascontiguousarray(t.log_odds[:, 0])
    judged = Judge(t.users, t.liked, t.offsets, full).drop(parse(name), score)
    assert expectation(t, full).drops([parse(name)], score)[0] == judged
