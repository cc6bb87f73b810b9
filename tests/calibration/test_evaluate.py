"""AUC, logloss and the bootstrap against scikit-learn and brute force."""

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from rexit.bundle import ExitPolicy, Policy
from rexit.calibration.evaluate import Ranking, auc, auc_difference, evaluate, logloss, user_auc
from synthetic_traces import even_costs, traces


@pytest.mark.parametrize("levels", [3, 10_000])
def test_auc_is_that_of_sklearn_with_and_without_ties(levels: int) -> None:
    random = np.random.default_rng(levels)
    score = (random.integers(0, levels, 2_000) / levels).astype(np.float32)
    liked = random.random(2_000) < score
    assert auc(score, liked) == pytest.approx(roc_auc_score(liked, score), abs=1e-12)


def test_weighted_auc_is_that_of_repeated_pairs() -> None:
    random = np.random.default_rng(0)
    score = random.integers(0, 20, 300).astype(np.float32)
    liked = random.random(300) < 0.4
    times = random.integers(0, 4, 300)
    expected = roc_auc_score(np.repeat(liked, times), np.repeat(score, times))
    assert Ranking(score, liked).auc(times.astype(float)) == pytest.approx(expected, abs=1e-12)


def test_auc_of_one_label_is_nan() -> None:
    assert np.isnan(auc(np.arange(3, dtype=np.float32), np.ones(3, bool)))


def test_logloss_is_that_of_sklearn_and_survives_large_log_odds() -> None:
    c = np.array([-300, -1, 0, 2, 300], np.float32)
    liked = np.array([False, True, False, True, True])
    assert logloss(c, liked) == pytest.approx(log_loss(liked, 1 / (1 + np.exp(-c.astype(float)))), abs=1e-9)


def test_user_auc_skips_users_with_one_label() -> None:
    t = traces(3, 4, [0.0], slate=4)
    liked = np.array([1, 1, 1, 1, 1, 0, 1, 0, 0, 0, 0, 1], bool)
    score = np.array([9, 9, 9, 9, 2, 1, 2, 1, 5, 5, 5, 1], np.float32)
    assert user_auc(score, type(t)(t.log_odds, liked, t.users, t.offsets)) == pytest.approx((1.0 + 0.0) / 2)


def test_evaluate_counts_layers_and_costs_where_each_candidate_stops() -> None:
    t = traces(50, 10, [1.0, 0.5, 0.0])
    policy = Policy((ExitPolicy(upper=1.0, lower=1.0), ExitPolicy(), ExitPolicy()), 1, "")
    early = np.abs(t.log_odds[:, 0]) >= 1
    quality = evaluate(t, policy, (2, 4, 6), even_costs(3))
    assert quality.mean_layers == pytest.approx(2 * early.mean() + 6 * (1 - early.mean()))
    per_slate = (1 - early).reshape(-1, 10)
    expected = 5 + (10 + 20 * (per_slate.max(1) > 0) + 10 * (1 + 2 * per_slate).sum(1)).mean()
    assert quality.cost_us == pytest.approx(expected)


def test_bootstrap_interval_covers_a_real_difference_and_excludes_zero() -> None:
    t = traces(300, 20, [2.0, 0.0], slate=20)
    difference, low, high = auc_difference(t, t.log_odds[:, 0], t.log_odds[:, 1], resamples=300)
    assert difference == pytest.approx(auc(t.log_odds[:, 0], t.liked) - auc(t.log_odds[:, 1], t.liked))
    assert low < difference < high < 0


def test_bootstrap_of_the_same_ranking_is_exactly_zero() -> None:
    t = traces(20, 10, [1.0, 0.0])
    assert auc_difference(t, t.log_odds[:, 0], t.log_odds[:, 0] * 2 + 1, resamples=50) == (0.0, 0.0, 0.0)


def test_bootstrap_draws_users_not_pairs() -> None:
    """Copies of a user's pairs add no information: the interval must not shrink as it would if pairs were drawn."""
    t = traces(60, 10, [2.0, 0.0])
    many = type(t)(
        np.repeat(t.log_odds, 16, axis=0), np.repeat(t.liked, 16), np.repeat(t.users, 16), np.arange(0, 16 * len(t) + 1, 160)
    )
    widths = []
    for each in (t, many):
        _, low, high = auc_difference(each, each.log_odds[:, 0], each.log_odds[:, 1], resamples=400)
        widths.append(high - low)
    assert widths[1] == pytest.approx(widths[0], rel=1e-6)
