"""AUC and the bootstrap of its differences, against scikit-learn and brute force."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from builders.traces import traces
from rexit.ranking import Ranking, auc, auc_difference, user_auc


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


def test_user_auc_skips_users_with_one_label() -> None:
    liked = np.array([1, 1, 1, 1, 1, 0, 1, 0, 0, 0, 0, 1], bool)
    score = np.array([9, 9, 9, 9, 2, 1, 2, 1, 5, 5, 5, 1], np.float32)
    assert user_auc(score, np.repeat([0, 1, 2], 4), liked) == pytest.approx((1.0 + 0.0) / 2)


def test_bootstrap_interval_covers_a_real_difference_and_excludes_zero() -> None:
    t = traces(300, 20, [2.0, 0.0], slate=20)
    difference, low, high = auc_difference(t.log_odds[:, 0], t.log_odds[:, 1], t.users, t.liked, resamples=300)
    assert difference == pytest.approx(auc(t.log_odds[:, 0], t.liked) - auc(t.log_odds[:, 1], t.liked))
    assert low < difference < high < 0


def test_bootstrap_of_the_same_ranking_is_exactly_zero() -> None:
    t = traces(20, 10, [1.0, 0.0])
    assert auc_difference(t.log_odds[:, 0], t.log_odds[:, 0] * 2 + 1, t.users, t.liked, resamples=50) == (0.0, 0.0, 0.0)


def test_bootstrap_draws_users_not_pairs() -> None:
    """Copies of a user's pairs add no information: the interval must not shrink as it would if pairs were drawn."""
    t = traces(60, 10, [2.0, 0.0])
    widths = []
    for copies in (1, 16):
        log_odds, users, liked = (np.repeat(values, copies, axis=0) for values in (t.log_odds, t.users, t.liked))
        _, low, high = auc_difference(log_odds[:, 0], log_odds[:, 1], users, liked, resamples=400)
        widths.append(high - low)
    assert widths[1] == pytest.approx(widths[0], rel=1e-6)
