"""AUC and NDCG, of all pairs and by user, and the bootstrap of differences, against scikit-learn and brute force."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import ndcg_score, roc_auc_score

from builders.traces import traces
from rexit.data.baselines import LIKES
from rexit.data.ranking import (
    ByUser,
    auc,
    auc_contributions,
    auc_difference,
    bootstrap,
    differ,
    doubt,
    item_biases,
    mean_by_user,
    probabilities,
    user_auc,
)


def test_contributions_are_the_slope_of_the_weighted_auc() -> None:
    random = np.random.default_rng(0)
    score = random.integers(0, 20, 300).astype(np.float32)
    liked = random.random(300) < 0.4
    contributions = auc_contributions(score, liked)
    assert contributions.sum() == pytest.approx(0, abs=1e-12)
    for pair in range(0, 300, 10):
        more = np.ones(300)
        more[pair] += 1e-6
        slope = (roc_auc_score(liked, score, sample_weight=more) - roc_auc_score(liked, score)) / 1e-6
        assert contributions[pair] == pytest.approx(slope, abs=1e-7)


def test_auc_of_one_label_is_nan() -> None:
    assert np.isnan(auc(np.arange(3, dtype=np.float32), np.ones(3, bool)))


def test_user_auc_skips_users_with_one_label() -> None:
    liked = np.array([1, 1, 1, 1, 1, 0, 1, 0, 0, 0, 0, 1], bool)
    score = np.array([9, 9, 9, 9, 2, 1, 2, 1, 5, 5, 5, 1], np.float32)
    assert user_auc(score, np.repeat([0, 1, 2], 4), liked) == pytest.approx((1.0 + 0.0) / 2)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_users_may_have_any_numbers_in_any_order(kind: type) -> None:
    random = np.random.default_rng(1)
    users = random.choice([-3, 7, 1000, 10**12], 300)
    score, liked = (random.normal(size=300).round(1) * 1e-3 + 1).astype(kind), random.random(300) < 0.5
    by_user = ByUser(users, liked)
    rows = [np.flatnonzero(users == u) for u in (-3, 7, 1000, 10**12)]
    assert by_user.auc(score) == pytest.approx([roc_auc_score(liked[r], score[r]) for r in rows], abs=1e-12)
    assert by_user.ndcg(score, 10) == pytest.approx([ndcg_score(liked[r][None], score[r][None], k=10) for r in rows], abs=1e-12)


def test_scores_beyond_float32_are_told_apart() -> None:
    score = np.array([1 + 1e-12, 1.0])
    assert user_auc(score, np.zeros(2, int), np.array([True, False])) == 1


def ranked(knows: float, taste: float, users: int = 200, each: int = 10) -> tuple[NDArray[Any], ...]:
    """Score, items, users and likes: an item's odds of a like are `taste` times a number of its own, a user's own taste adds to
    it, and the score knows of both by `knows`."""
    random = np.random.default_rng(0)
    items, own = random.integers(0, 30, users * each), random.normal(size=users * each)
    odds = taste * random.normal(size=30)[items] + own
    liked = random.random(users * each) < 1 / (1 + np.exp(-odds))
    score = (knows * odds + random.normal(size=users * each)).astype(np.float32)
    return score, items, np.repeat(np.arange(users), each), liked


def test_a_model_that_ranks_by_chance_or_worse_is_doubted() -> None:
    """Such a one passes every gate and every calibration, which compare it with itself."""
    for knows in (0.0, -1.0):
        score, items, users, liked = ranked(knows, taste=0.0)
        sentence = doubt(score, {LIKES: item_biases(items, items, liked)}, users, liked)
        assert sentence is not None and sentence.startswith(
            f"This model is not shown to rank: its user AUC at the last exit is {user_auc(score, users, liked):.3f} ("
        )
    score, items, users, liked = ranked(knows=2.0, taste=0.0)
    assert doubt(score, {}, users, liked) is None
    few = users < 19
    sentence = doubt(score[few], {}, users[few], liked[few])
    assert sentence is not None and "users have both labels, expected at least 20." in sentence


def test_a_model_that_items_biases_outrank_is_doubted() -> None:
    score, items, users, liked = ranked(knows=0.3, taste=3.0)
    sentence = doubt(score, {LIKES: item_biases(items, items, liked)}, users, liked)
    assert sentence is not None and sentence.startswith(f"This model ranks below a baseline ({LIKES}): its user AUC ")
    assert doubt(score, {LIKES: item_biases(items, items[:0], liked[:0])}, users, liked) is None, (
        "without training all items are alike"
    )


def test_item_biases_start_from_the_average() -> None:
    biases = item_biases(np.array([2, 0, 3]), np.array([0, 0, 1]), np.array([True, True, False]))
    assert biases == pytest.approx([0.6, (2 + 6) / 12, 0.6]), "items 2 and 3 were never met"


def test_draws_are_of_users_and_always_the_same() -> None:
    sums = np.array([[3.0, 0.0], [0.0, 3.0], [0.0, 0.0]])
    means = bootstrap(sums, np.ones((3, 2)), 200)
    assert means.shape == (200, 2) and means.mean() == pytest.approx(1, abs=0.15) and means.max() == 3
    np.testing.assert_array_equal(means[:, 0], bootstrap(sums[:, 0], np.ones(3), 200))


def test_draws_without_a_value_are_nan() -> None:
    means = bootstrap(np.array([1.0, 0.0]), np.array([1.0, 0.0]), 50)
    assert set(means[np.isfinite(means)]) == {1.0} and np.isnan(means).any()


def test_bootstrap_interval_covers_a_real_difference_and_excludes_zero() -> None:
    t = traces(300, 20, [2.0, 0.0], slate=20)
    difference, low, high = auc_difference(t.log_odds[:, 0], t.log_odds[:, 1], t.users, t.liked, resamples=300)
    assert difference == pytest.approx(auc(t.log_odds[:, 0], t.liked) - auc(t.log_odds[:, 1], t.liked))
    assert low < difference < high < 0


def test_bootstrap_draws_users_not_pairs() -> None:
    """Copies of a user's pairs add no information: the interval must not shrink as it would if pairs were drawn."""
    t = traces(60, 10, [2.0, 0.0])
    widths = []
    for copies in (1, 16):
        log_odds, users, liked = (np.repeat(values, copies, axis=0) for values in (t.log_odds, t.users, t.liked))
        _, low, high = auc_difference(log_odds[:, 0], log_odds[:, 1], users, liked, resamples=400)
        widths.append(high - low)
    assert widths[1] == pytest.approx(widths[0], rel=1e-6)


@pytest.mark.parametrize(
    ("scores", "groups", "different"),
    [([1, 1, 2, 2], [7, 7, 3, 3], False), ([1, 2], [0, 0], True), ([2, 1], [0, 0], True), ([1, 2, 1, 3], [0, 1, 0, 1], True)],
)
def test_scores_differ_within_a_group(scores: list[int], groups: list[int], different: bool) -> None:
    assert differ(np.array(scores, np.float32), np.array(groups)) == different


def test_the_interval_of_a_mean_is_over_users() -> None:
    """Four equal pairs of each user say no more than one."""
    of_user = np.random.default_rng(3).standard_normal(2000) + 5
    mean, low, high = mean_by_user(np.repeat(of_user, 4), np.repeat(np.arange(2000), 4))
    error = 1.96 * of_user.std() / np.sqrt(2000)
    assert mean == pytest.approx(of_user.mean()) and (mean - low, high - mean) == pytest.approx((error, error), rel=0.05)


def test_probabilities_are_those_of_the_log_odds() -> None:
    assert probabilities(np.array([0, np.log(3), -200], np.float32)) == pytest.approx([0.5, 0.75, 0])
