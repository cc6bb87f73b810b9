"""Metrics against scikit-learn and brute force, on users of many sizes, with ties, with one label and with one pair."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from sklearn.metrics import log_loss, ndcg_score, roc_auc_score

from rexit.calibration.metrics import Judge, Metric, parse
from rexit.errors import InputError
from rexit.upkeep.audit.losses import Loss

NAMES = ("ndcg@3", "user-auc", "auc", "logloss", "agreement", "top-k-overlap@2")
PER_USER = ("ndcg@3", "user-auc", "agreement", "top-k-overlap@2")


@dataclass
class Split:
    """Users with one pair to 40, and one with 700; slates of at most 7."""

    users: np.ndarray
    liked: np.ndarray
    offsets: np.ndarray
    reference: np.ndarray
    score: np.ndarray

    @classmethod
    def random(cls, seed: int = 0, levels: float = 2.0, users: int = 60) -> Split:
        """Scores are rounded to 1 / levels: 2 for many ties, 1e6 for hardly any."""
        rng = np.random.default_rng(seed)
        sizes = np.r_[1, 1, rng.integers(1, 40, users - 3), 700]
        n = int(sizes.sum())
        reference = rng.normal(0, 2, n)
        liked = rng.random(n) < 1 / (1 + np.exp(-reference))
        score = reference + rng.normal(0, 1, n)
        starts = [a + at for a, size in zip(np.cumsum(sizes) - sizes, sizes, strict=True) for at in range(0, size, 7)]
        rounded = [np.round(c * levels).astype(np.float32) / np.float32(levels) for c in (reference, score)]
        return cls(np.repeat(np.arange(users), sizes), liked, np.array([*starts, n]), *rounded)

    @property
    def judge(self) -> Judge:
        return Judge(self.users, self.liked, self.offsets, self.reference)

    def brute(self, name: str, score: np.ndarray) -> np.ndarray:
        """Each user's value, one at a time."""
        return np.array([BRUTE[name](self, score, np.flatnonzero(self.users == u)) for u in range(self.users.max() + 1)])


def with_both(measure: Callable[[np.ndarray, np.ndarray], float]) -> Callable[[Split, np.ndarray, np.ndarray], float]:
    def value(split: Split, score: np.ndarray, rows: np.ndarray) -> float:
        liked = split.liked[rows]
        return measure(liked, score[rows]) if liked.any() and not liked.all() else float("nan")

    return value


def agreement(split: Split, score: np.ndarray, rows: np.ndarray) -> float:
    return float(np.mean([(score[i] >= 0) == (split.reference[i] >= 0) for i in rows]))


def overlap(split: Split, score: np.ndarray, rows: np.ndarray) -> float:
    shares = []
    for begin, end in zip(split.offsets, split.offsets[1:], strict=False):
        if begin in rows and end - begin > 2:
            first, full = (sorted(range(begin, end), key=lambda i, c=c: (-c[i], i))[:2] for c in (score, split.reference))
            shares.append(len({*first} & {*full}) / 2)
    return float(np.mean(shares)) if shares else float("nan")


BRUTE = {
    "ndcg@3": with_both(lambda liked, score: ndcg_score(liked[None], score[None], k=3)),
    "user-auc": with_both(roc_auc_score),
    "agreement": agreement,
    "top-k-overlap@2": overlap,
}


@pytest.mark.medium
@pytest.mark.parametrize("levels", [2.0, 1e6])
@pytest.mark.parametrize("name", PER_USER)
def test_every_user_is_judged_as_one_at_a_time(name: str, levels: float) -> None:
    split = Split.random(levels=levels)
    metric, judge = parse(name), split.judge
    expected = split.brute(name, split.score)
    assert 0 < np.isnan(expected).sum() < 30 or name == "agreement"
    np.testing.assert_allclose(judge.per_user(metric, split.score), expected, rtol=0, atol=1e-12)
    assert judge.value(metric, split.score) == pytest.approx(np.nanmean(expected), abs=1e-12)
    lost = split.brute(name, split.reference) - expected
    np.testing.assert_allclose(judge.losses(metric, split.score), lost[~np.isnan(lost)], rtol=0, atol=1e-12)
    assert judge.drop(metric, split.score) == pytest.approx(np.nanmean(lost), abs=1e-12)


def test_metrics_over_pairs_are_those_of_sklearn() -> None:
    split = Split.random()
    judge, probability = split.judge, 1 / (1 + np.exp(-split.score.astype(float)))
    assert judge.value(parse("auc"), split.score) == pytest.approx(roc_auc_score(split.liked, split.score), abs=1e-12)
    assert judge.value(parse("logloss"), split.score) == pytest.approx(log_loss(split.liked, probability), abs=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_a_drop_is_what_is_lost_against_full_depth(name: str) -> None:
    split = Split.random(1)
    metric, judge = parse(name), split.judge
    change = judge.value(metric, split.score) - judge.full(metric)
    assert judge.drop(metric, split.score) == pytest.approx(-change if metric.higher_is_better else change, abs=1e-12)
    assert judge.drop(metric, split.score) > 0 and judge.drop(metric, split.reference) == 0
    if metric.bounds is not None:
        losses = judge.losses(metric, split.score)
        assert metric.bounds[0] <= losses.min() and losses.max() <= metric.bounds[1]


@pytest.mark.medium
@pytest.mark.parametrize("name", NAMES)
def test_an_interval_draws_users(name: str) -> None:
    """The same users drawn, written out as new users, judged anew."""
    split = Split.random(2)
    metric, judge = parse(name), split.judge
    low, high = judge.intervals([metric], split.score, resamples=60)[metric]
    assert low < judge.drop(metric, split.score) < high
    assert judge.intervals([metric], split.reference, resamples=10)[metric] == (0, 0)
    random, drops = np.random.default_rng(20250102), []
    for _ in range(60):
        drawn = random.integers(0, 60, 60)
        drops.append(written_out(split, drawn).drop(metric))
    near = 0.2 * (high - low) if name == "auc" else 1e-9  # the AUC's is one of the first order
    assert (low, high) == pytest.approx(np.percentile(drops, [2.5, 97.5]), abs=near)


class Drawn(Split):
    def drop(self, metric: Metric) -> float:
        return self.judge.drop(metric, self.score)


def written_out(split: Split, drawn: np.ndarray) -> Drawn:
    rows = [np.flatnonzero(split.users == u) for u in drawn]
    sizes = [np.diff(split.offsets)[split.users[split.offsets[:-1]] == u] for u in drawn]
    every = np.concatenate(rows)
    users = np.repeat(np.arange(len(drawn)), [len(r) for r in rows])
    offsets = np.r_[0, np.cumsum(np.concatenate(sizes))]
    return Drawn(users, split.liked[every], offsets, split.reference[every], split.score[every])


def test_zero_and_minus_zero_tie() -> None:
    liked = np.array([True, False, True, False])
    judge = Judge(np.array([0, 0, 1, 1]), liked, np.array([0, 2, 4]), np.ones(4, np.float32))
    assert judge.per_user(parse("user-auc"), np.array([0.0, -0.0, -0.0, 0.0], np.float32)).tolist() == [0.5, 0.5]
    assert judge.per_user(parse("top-k-overlap@1"), np.array([0.0, -0.0, -0.0, 0.0], np.float32)).tolist() == [1, 1]


def test_one_enormous_user_takes_no_more_memory_than_many_small_ones() -> None:
    import tracemalloc

    n, random, peaks = 100_000, np.random.default_rng(0), []
    score, liked = random.normal(size=n).astype(np.float32), random.random(n) < 0.5
    for sizes in ([20] * (n // 20), [*[1] * (n // 2), n - n // 2]):
        users = np.repeat(np.arange(len(sizes)), sizes)
        judge = Judge(users, liked, np.r_[0, np.cumsum(sizes)], score)
        tracemalloc.start()
        for name in ("ndcg@10", "user-auc", "top-k-overlap@5"):
            judge.value(parse(name), score)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 2 * peaks[0] < 40e6


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "ndcg",
            "metric 'ndcg': has no K, expected ndcg@K, user-auc, auc, logloss, agreement, top-k-overlap@K or expected-ndcg@K",
        ),
        ("auc@5", "metric 'auc@5': takes no K"),
        ("ndcg@0", "metric 'ndcg@0': K is '0', expected a whole number from 1"),
        ("ndcg@", "K is ''"),
        ("ndcg@²", "K is '²'"),
        ("top-k-overlap@99999999999999999999", "K is '9+'"),
        ("map", "metric 'map': unknown, expected ndcg@K"),
        ("NDCG@10", "unknown"),
    ],
)
def test_a_name_that_is_none(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse(name)


def judged(name: str, liked: list[bool], score: list[float]) -> float:
    """Two users of three pairs, a slate each."""
    judge = Judge(np.repeat([0, 1], 3), np.array(liked), np.array([0, 3, 6]), np.arange(6, dtype=np.float32))
    return judge.value(parse(name), np.array(score, np.float32))


SCORES = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]


@pytest.mark.parametrize(
    ("name", "liked", "message"),
    [
        ("auc", [True] * 6, "metric auc: all 6 pairs are liked, expected both kinds"),
        ("auc", [False] * 6, "all 6 pairs are not liked"),
        ("ndcg@3", [True] * 3 + [False] * 3, "metric ndcg@3: none of 2 users has both a like and a dislike, expected some"),
        ("user-auc", [True] * 3 + [False] * 3, "metric user-auc: none of 2 users"),
        (
            "top-k-overlap@3",
            [True, False] * 3,
            "metric top-k-overlap@3: the largest slate has 3 candidates, expected more than 3",
        ),
    ],
)
def test_a_split_that_has_no_value(name: str, liked: list[bool], message: str) -> None:
    with pytest.raises(InputError, match=message):
        judged(name, liked, SCORES)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", NAMES)
def test_a_score_that_is_not_finite(name: str, bad: float) -> None:
    with pytest.raises(InputError, match=f"metric {name}: the score of pair 4 is {bad}, expected finite scores"):
        judged(name, [True, False] * 3, [*SCORES[:4], bad, bad])


@pytest.mark.parametrize("name", ["auc", "logloss"])
def test_metrics_over_pairs_have_no_losses(name: str) -> None:
    split = Split.random()
    with pytest.raises(InputError, match=f"metric {name}: is over all pairs, expected one with a value per user"):
        split.judge.losses(parse(name), split.score)


def test_expected_ndcg_is_the_audits_loss_of_each_slate() -> None:
    """Mean over a user's slates of 1 minus NDCG with full depth's probability as gain; ties and equal slates included."""
    random = np.random.default_rng(11)
    full = random.normal(0, 2, 60).astype(np.float32)
    score = (full + random.normal(0, 2, 60)).round().astype(np.float32)
    full[50:] = 1.0
    offsets, users = np.array([0, 10, 25, 26, 50, 60]), np.repeat([0, 0, 1, 1, 2], [10, 15, 1, 24, 10])
    judge, metric = Judge(users, np.zeros(60, np.bool_), offsets, full), parse("expected-ndcg@5")
    slates = list(itertools.starmap(slice, itertools.pairwise(offsets)))
    losses = [Loss.parse("expected-ndcg@5").of_slate(score[part], full[part]) for part in slates]
    assert np.isnan(losses[2]) and np.isnan(losses[4]) and 0 < losses[0] < 1
    np.testing.assert_allclose(judge.losses(metric, score), [np.mean(losses[:2]), losses[3]], rtol=1e-9)
    p = 1 / (1 + np.exp(-full[:10].astype(np.float64)))
    assert 1 - losses[0] == pytest.approx(ndcg_score(p[None], score[None, :10], k=5))
    with pytest.raises(InputError, match="the full model gives all candidates of a slate the same score"):
        Judge(users, np.zeros(60, np.bool_), offsets, np.zeros(60, np.float32)).losses(metric, score)
