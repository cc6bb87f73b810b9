"""How well scores rank what users liked, and how sure a difference is. The exporter and calibration judge by the same."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

BOOTSTRAP_SEED = 20250102
RESAMPLES = 1000
MIN_USERS = 20
"""With fewer, a bootstrap over users says nothing: it takes what it has not seen to be impossible."""

PRIOR = 10
"""Interactions of average liking that an item's share of likes starts from."""


class Ranking:
    """A ranking whose AUC can be taken again under other weights: score float [n], liked bool [n]. Sorted once."""

    def __init__(self, score: NDArray[np.floating], liked: NDArray[np.bool_]) -> None:
        self._order = np.argsort(score)
        ordered = score[self._order]
        self._starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
        self._liked = liked[self._order]

    def auc(self, weights: NDArray[np.float64] | None = None) -> float:
        """Area under the ROC curve, ties counted half; nan without both labels. weights float64 [n]: how often each pair
        counts."""
        weight = np.ones(len(self._order)) if weights is None else weights[self._order]
        positive = np.add.reduceat(np.where(self._liked, weight, 0.0), self._starts)
        negative = np.add.reduceat(np.where(self._liked, 0.0, weight), self._starts)
        pairs = positive.sum() * negative.sum()
        below = np.cumsum(negative) - negative
        return float(positive @ (below + negative / 2) / pairs) if pairs > 0 else float("nan")


def auc(score: NDArray[np.float32], liked: NDArray[np.bool_]) -> float:
    """Area under the ROC curve, ties counted half; nan without both labels."""
    return Ranking(score, liked).auc()


class ByUser:
    """Pairs by user, prepared so that ranking them again is fast: users int64 [n], any numbers; liked bool [n].

    Values are per user, float64 [U] in the order of their numbers, nan where a user does not have both labels. A tie is worth
    the average over the orders it may stand for. score float [n], float32 for speed, without nan.

    All users are sorted in one go: what is sorted is the user, the score and the label in one integer.
    """

    def __init__(self, users: NDArray[np.int64], liked: NDArray[np.bool_]) -> None:
        self.numbers: NDArray[np.int64] = np.unique(users, return_inverse=True)[1]
        """Each pair's user, from 0 on: int64 [n]."""
        self.pairs = np.bincount(self.numbers)
        self._likes = np.bincount(self.numbers, liked)
        self.both = (self._likes > 0) & (self._likes < self.pairs)
        """Users with both labels: bool [U]."""
        self._starts = np.cumsum(self.pairs) - self.pairs
        self._place = np.arange(len(users)) - np.repeat(self._starts, self.pairs)
        self._key = (self.numbers << 33) + liked
        self._discounts: dict[int, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}

    def auc(self, score: NDArray[np.floating]) -> NDArray[np.float64]:
        """Each user's area under the ROC curve."""
        likes, others = self._likes, self.pairs - self._likes
        above = self._over_likes(score, self._place.astype(np.float64)) - likes * (likes - 1) / 2
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self.both, 1 - above / (likes * others), np.nan)

    def ndcg(self, score: NDArray[np.floating], k: int) -> NDArray[np.float64]:
        """Each user's normalized discounted cumulative gain of the first k, a like being worth 1."""
        if k not in self._discounts:
            first = self._place < k
            discount = np.where(first, 1 / np.log2(self._place + 2.0), 0.0)
            best = np.add.reduceat(discount * (self._place < np.repeat(self._likes, self.pairs)), self._starts)
            self._discounts[k] = discount, np.where(self.both, best, np.nan)
        discount, best = self._discounts[k]
        return self._over_likes(score, discount) / best

    def _over_likes(self, score: NDArray[np.floating], worth: NDArray[np.float64]) -> NDArray[np.float64]:
        """Each user's sum, over liked pairs, of what their place is worth: float64 [U] from worth [n], users and places in
        order."""
        key = np.sort(self._key + (descending(score) << 1))
        liked = (key & 1).astype(np.float64)
        fresh = np.r_[True, (key[1:] ^ key[:-1]) > 1]
        if fresh.all():
            return np.add.reduceat(worth * liked, self._starts)
        ties = np.flatnonzero(fresh)
        sizes = np.diff(np.r_[ties, len(key)])
        sums = np.add.reduceat(worth, ties) * np.add.reduceat(liked, ties) / sizes
        return np.add.reduceat(sums, np.searchsorted(ties, self._starts))


def descending(score: NDArray[np.floating]) -> NDArray[np.int64]:
    """Integers from 0 to below 2**32 that order as the scores do, the highest score first: int64 [n]."""
    if score.dtype != np.float32:
        order = np.unique(score, return_inverse=True)[1]
        return np.asarray(order.max() - order, np.int64)
    bits = (np.float32(0) - score).view(np.int32)  # from 0, so that 0 and -0 are one
    return np.asarray((bits ^ ((bits >> 31) & 0x7FFFFFFF)).astype(np.int64) + 2**31)


def user_auc(score: NDArray[np.float32], users: NDArray[np.int64], liked: NDArray[np.bool_]) -> float:
    """Mean of each user's own AUC, over users with both labels; nan if there is none."""
    by_user = ByUser(users, liked)
    return float(by_user.auc(score)[by_user.both].mean()) if by_user.both.any() else float("nan")


def auc_difference(
    score: NDArray[np.float32],
    reference: NDArray[np.float32],
    users: NDArray[np.int64],
    liked: NDArray[np.bool_],
    resamples: int = RESAMPLES,
) -> tuple[float, float, float]:
    """AUC(score) - AUC(reference) and its 95 % interval (see `bootstrap`). users int64 [n]: numbers from 0 on, none left out."""
    ranking, baseline = Ranking(score, liked), Ranking(reference, liked)

    def difference(weights: NDArray[np.float64]) -> float:
        return ranking.auc(weights[users]) - baseline.auc(weights[users])

    drawn = bootstrap(difference, int(users.max()) + 1, resamples)
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return ranking.auc() - baseline.auc(), float(low), float(high)


def item_biases(items: NDArray[np.int64], train_items: NDArray[np.int64], train_liked: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The share of likes that each pair's item has in training, float64 [n], as if there had been `PRIOR` interactions of average
    liking more: items int64 [n], rows; train_items int64 [m], rows; train_liked bool [m]. What a model has to beat."""
    rows = int(max(items.max(initial=-1), train_items.max(initial=-1))) + 1
    met = np.bincount(train_items, minlength=rows)
    likes = np.bincount(train_items, train_liked, minlength=rows)
    average = (train_liked.sum() + 1) / (len(train_liked) + 2)
    return np.asarray(((likes + PRIOR * average) / (met + PRIOR))[items])


def doubt(
    score: NDArray[np.float32], biases: NDArray[np.float64], users: NDArray[np.int64], liked: NDArray[np.bool_]
) -> str | None:
    """Why the ranking within users may be worth nothing: chance is in the 95 % interval of its user AUC or above it, or the
    items' biases rank better, or too few users have both labels to tell. None if neither is so. score float32 [n], of the last
    exit; biases float64 [n], of the pairs' items."""
    by_user = ByUser(users, liked)
    if (count := int(by_user.both.sum())) < MIN_USERS:
        return (
            f"This model is not shown to rank: {count} users have likes and dislikes, expected at least {MIN_USERS}."
        )
    values = np.stack([by_user.auc(score), by_user.auc(biases)], 1)[by_user.both]

    def means(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        own, items = np.average(values, axis=0, weights=weights)
        return np.array([own, own - items])

    (own, gain), drawn = means(np.ones(len(values))), bootstrap(means, len(values))
    (low, worst), (high, best) = np.percentile(drawn, [2.5, 97.5], axis=0)
    measured = f"user AUC at the last exit is {own:.3f} ({low:.3f} to {high:.3f}, 95 % interval over {count:,} users)"
    if low <= 0.5:
        return f"This model is not shown to rank: its {measured}, chance is 0.5."
    if best < 0:
        return (
            f"This model ranks worse than the items' shares of likes in training: its {measured}, theirs is {own - gain:.3f}, a "
            f"difference of {gain:+.3f} ({worst:+.3f} to {best:+.3f})."
        )
    return None


def bootstrap(
    value: Callable[[NDArray[np.float64]], float | NDArray[np.float64]], users: int, resamples: int = RESAMPLES
) -> NDArray[np.float64]:
    """The values of drawn users, float64 [resamples, ...]: `value` takes float64 [users], how often each one counts. Their 2.5th
    and 97.5th percentiles are a 95 % interval.

    A user's pairs are not independent, so users are drawn, not pairs. The draws are always the same, so that of a difference what
    both sides share cancels out. Draws without a value are nan.
    """
    random = np.random.default_rng(BOOTSTRAP_SEED)
    return np.array(
        [value(np.bincount(random.integers(0, users, users), minlength=users).astype(np.float64)) for _ in range(resamples)]
    )
