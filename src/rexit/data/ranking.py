"""How well scores rank what users liked, and how certain a difference is. The exporter and calibration share this code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property, lru_cache, partial

import numpy as np
from numpy.typing import NDArray

BOOTSTRAP_SEED = 20250102
RESAMPLES = 1000
MIN_USERS = 20
"""With fewer users a bootstrap says nothing: it takes what is not in the sample to be impossible."""

NDCG_AT = 10
"""K of the NDCG that is shown of rankings: the gain is 1 for a like, the ideal the best order of the user's own pairs."""

PRIOR = 10
"""How many interactions of average liking an item's share of likes starts from."""


def auc(score: NDArray[np.floating], liked: NDArray[np.bool_]) -> float:
    """Returns the area under the ROC curve, ties counted half; nan without both labels. score: float [n]; liked: bool [n]."""
    return float(ByUser(np.zeros(len(liked), np.int64), liked).auc(score)[0])


def auc_contributions(score: NDArray[np.floating], liked: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Returns how the AUC changes, to first order, with each pair's weight: float64 [n], of sum 0.

    Summed by user they give a bootstrap of the AUC that takes one sort instead of one per draw (DeLong et al. 1988; with
    clusters, Obuchowski 1997).

    Args:
        score: float [n].
        liked: bool [n], with both labels present.
    """
    likes = int(liked.sum())
    others = len(liked) - likes
    rank, rank_liked, rank_other = _ranks(score), _ranks(score[liked]), _ranks(score[~liked])
    correct = np.empty(len(score))  # share of the other kind on the right side
    correct[liked] = (rank[liked] - rank_liked) / others
    correct[~liked] = 1 - (rank[~liked] - rank_other) / likes
    area = correct[liked].mean()
    return np.asarray(np.where(liked, (correct - area) / likes, (correct - area) / others), np.float64)


def _ranks(score: NDArray[np.floating]) -> NDArray[np.float64]:
    """Ranks from 1, ties sharing their average: float64 [n]. Like SciPy's rankdata, which a device that scores does not have."""
    _, numbers, counts = np.unique(score, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2)[numbers], np.float64)


class ByUser:
    """Pairs by user, prepared so that judging another ranking is fast.

    Methods take a score, float [n] without nan, float32 for speed. They return a value per user, float64 [U] in the order of the
    users' numbers, nan for a user whose gains are all equal. A tie counts as the average over its possible orders. With labels
    all users are sorted at once: by user, score and label in one integer.

    Args:
        users: int64 [n], any numbers.
        gains: the labels, bool [n]; or what each pair is worth, 0 or more, float64 [n].
    """

    def __init__(self, users: NDArray[np.int64], gains: NDArray[np.bool_] | NDArray[np.float64]) -> None:
        self.numbers: NDArray[np.int64] = np.unique(users, return_inverse=True)[1].astype(np.int64)
        """Each pair's user, from 0 on: int64 [n]."""
        self.pairs = np.bincount(self.numbers)
        self._starts = np.cumsum(self.pairs) - self.pairs
        self._place = np.arange(len(users)) - np.repeat(self._starts, self.pairs)
        self._gains, self._labelled = gains.astype(np.float64), gains.dtype == np.bool_
        self._key = (self.numbers << 33) + gains if self._labelled else self.numbers << 32
        self._discounts: dict[int, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}

    @cached_property
    def _likes(self) -> NDArray[np.float64]:
        return np.asarray(np.bincount(self.numbers, self._gains), np.float64)

    @cached_property
    def _ideal(self) -> NDArray[np.float64]:
        """Gains by user, the largest first."""
        return np.asarray(self._gains[np.lexsort((-self._gains, self.numbers))], np.float64)

    @cached_property
    def both(self) -> NDArray[np.bool_]:
        """Users with both labels, or gains that differ: bool [U]."""
        if self._labelled:
            return np.asarray((self._likes > 0) & (self._likes < self.pairs))
        ideal = self._ideal
        return np.asarray(np.minimum.reduceat(ideal, self._starts) < np.maximum.reduceat(ideal, self._starts))

    def auc(self, score: NDArray[np.floating]) -> NDArray[np.float64]:
        """Returns each user's area under the ROC curve, by labels."""
        likes, others = self._likes, self.pairs - self._likes
        above = self._gained(score, self._place.astype(np.float64)) - likes * (likes - 1) / 2
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self.both, 1 - above / (likes * others), np.nan)

    def ndcg(self, score: NDArray[np.floating], k: int) -> NDArray[np.float64]:
        """Returns each user's normalized discounted cumulative gain of the first k; a like is a gain of 1."""
        if k not in self._discounts:
            discount = np.where(self._place < k, 1 / np.log2(self._place + 2.0), 0.0)
            best = np.add.reduceat(discount * self._ideal, self._starts)
            self._discounts[k] = discount, np.where(self.both, best, np.nan)
        discount, best = self._discounts[k]
        return self._gained(score, discount) / best

    def _gained(self, score: NDArray[np.floating], worth: NDArray[np.float64]) -> NDArray[np.float64]:
        """Each user's sum, over places, of `worth` times the gain there, float64 [U].

        worth: each place's, float64 [n], in the order of users and places.
        """
        if self._labelled:
            key = np.sort(self._key + (descending(score) << 1))
            gains, fresh = (key & 1).astype(np.float64), np.r_[True, (key[1:] ^ key[:-1]) > 1]
        else:
            key = self._key + descending(score)
            order = np.argsort(key, kind="stable")
            gains, fresh = self._gains[order], np.r_[True, np.diff(key[order]) > 0]
        if fresh.all():
            return np.add.reduceat(worth * gains, self._starts)
        ties = np.flatnonzero(fresh)
        sizes = np.diff(np.r_[ties, len(key)])
        sums = np.add.reduceat(worth, ties) * np.add.reduceat(gains, ties) / sizes
        return np.add.reduceat(sums, np.searchsorted(ties, self._starts))


def probabilities(c: NDArray[np.float32]) -> NDArray[np.float64]:
    """Returns 1 / (1 + exp(-c)), float64 [n]."""
    with np.errstate(over="ignore"):
        return np.asarray(1 / (1 + np.exp(-c.astype(np.float64))), np.float64)


def descending(score: NDArray[np.floating]) -> NDArray[np.int64]:
    """Returns integers from 0 to below 2**32, int64 [n], that sort the highest score first."""
    if score.dtype != np.float32:
        order = np.unique(score, return_inverse=True)[1]
        return np.asarray(order.max() - order, np.int64)
    bits = (np.float32(0) - score).view(np.int32)  # from 0, so that 0 and -0 are one
    return np.asarray((bits ^ ((bits >> 31) & 0x7FFFFFFF)).astype(np.int64) + 2**31)


def user_auc(score: NDArray[np.float32], users: NDArray[np.int64], liked: NDArray[np.bool_]) -> float:
    """Returns the mean of each user's own AUC, over users with both labels; nan if there is none.

    Args:
        score: float32 [n].
        users: int64 [n], any numbers.
        liked: bool [n].
    """
    by_user = ByUser(users, liked)
    return float(by_user.auc(score)[by_user.both].mean()) if by_user.both.any() else float("nan")


def auc_difference(
    score: NDArray[np.float32],
    reference: NDArray[np.float32],
    users: NDArray[np.int64],
    liked: NDArray[np.bool_],
    resamples: int = RESAMPLES,
) -> tuple[float, float, float]:
    """Returns AUC(score) - AUC(reference) over all pairs and the ends of its 95 % interval, nan without both labels.

    Args:
        score, reference: float32 [n].
        users: int64 [n], numbered from 0, none left out.
        liked: bool [n].
        resamples: number of bootstrap samples.
    """
    difference = auc(score, liked) - auc(reference, liked)
    if np.isnan(difference):
        return difference, difference, difference
    changes = np.bincount(users, auc_contributions(score, liked) - auc_contributions(reference, liked))
    sums = np.asarray(difference + len(changes) * changes, np.float64)
    low, high = np.percentile(bootstrap(sums, np.ones(len(sums)), resamples), [2.5, 97.5])
    return difference, float(low), float(high)


def item_biases(items: NDArray[np.int64], train_items: NDArray[np.int64], train_liked: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Returns the share of likes that each pair's item has in training, float64 [n]: a ranking that a model has to beat.

    `PRIOR` interactions of average liking are added to each item's.

    Args:
        items: the pairs', as rows of the catalog, int64 [n].
        train_items: the training interactions', as rows, int64 [m].
        train_liked: their labels, bool [m].
    """
    rows = int(max(items.max(initial=-1), train_items.max(initial=-1))) + 1
    counts = np.bincount(train_items, minlength=rows)
    likes = np.bincount(train_items, train_liked, minlength=rows)
    average = (train_liked.sum() + 1) / (len(train_liked) + 2)
    return np.asarray(((likes + PRIOR * average) / (counts + PRIOR))[items])


def noun_of(has_catalog: bool) -> str:
    """Returns whom slates are of, for sentences: those of a file without a catalog are of queries."""
    return "users" if has_catalog else "queries"


def doubt(
    score: NDArray[np.float32],
    baselines: Mapping[str, NDArray[np.float64]],
    users: NDArray[np.int64],
    liked: NDArray[np.bool_],
    noun: str = "users",
) -> str | None:
    """Returns why the ranking within users may be worth nothing, in a sentence; None if there is no reason.

    1. Fewer than `MIN_USERS` users have both labels.
    2. Chance is in the 95 % interval of the user AUC, or above it.
    3. A baseline ranks better, by user AUC or by NDCG@10.

    Args:
        score: the last exit's, float32 [n].
        baselines: the scores of `rexit.data.baselines`, float64 [n] each, by name.
        users: int64 [n], any numbers.
        liked: bool [n].
        noun: see `noun_of`.
    """
    by_user = ByUser(users, liked)
    if (count := int(by_user.both.sum())) < MIN_USERS:
        return f"This model is not shown to rank: {count} {noun} have both labels, expected at least {MIN_USERS}."
    for title, measure in (("user AUC", by_user.auc), (f"NDCG@{NDCG_AT}", partial(by_user.ndcg, k=NDCG_AT))):
        model = measure(score)[by_user.both]
        values = np.stack([model, *(model - measure(other)[by_user.both] for other in baselines.values())], 1)
        own, *gains = values.mean(0)
        lows, highs = np.percentile(bootstrap(values, np.ones_like(values)), [2.5, 97.5], axis=0)
        measured = (
            f"its {title} at the last exit is {own:.3f} ({lows[0]:.3f} to {highs[0]:.3f}, 95 % interval over {count:,} {noun})"
        )
        if title == "user AUC" and lows[0] <= 0.5:
            return f"This model is not shown to rank: {measured}, chance is 0.5."
        for name, gain, low, high in zip(baselines, gains, lows[1:], highs[1:], strict=True):
            if high < 0:
                return (
                    f"This model ranks below a baseline ({name}): {measured}, the baseline's is {own - gain:.3f}, "
                    f"a difference of {gain:+.3f} ({low:+.3f} to {high:+.3f})."
                )
    return None


def differ(score: NDArray[np.floating], groups: NDArray[np.int64]) -> bool:
    """Returns whether any group has two different scores. score: float [n]; groups: int64 [n], any numbers."""
    _, first, numbers = np.unique(groups, return_index=True, return_inverse=True)
    return bool((score != score[first[numbers]]).any())


def mean_by_user(values: NDArray[np.float64], users: NDArray[np.int64]) -> tuple[float, float, float]:
    """Returns the mean over pairs, with the ends of its 95 % interval over users.

    Args:
        values: one per pair, float64 [n].
        users: each pair's, int64 [n], numbered from 0.
    """
    draws = bootstrap(np.bincount(users, values).astype(np.float64), np.bincount(users).astype(np.float64))
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(values.mean()), float(low), float(high)


def bootstrap(sums: NDArray[np.float64], counts: NDArray[np.float64], resamples: int = RESAMPLES) -> NDArray[np.float64]:
    """Returns the means of resampled users, float64 [resamples, ...]. Their 2.5th and 97.5th percentiles are a 95 % interval.

    A user's pairs are not independent, so users are resampled, not pairs. The draws are always the same, so that what both sides
    of a difference share cancels out. Draws that divide by zero are nan or infinite.

    Args:
        sums: each user's sum of values, float64 [U, ...].
        counts: how many values each user has, float64 [U, ...].
    """
    users = len(sums)
    weights = (_kept_weights if resamples * users <= _KEPT else _weights)(users, resamples)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.array([(weight @ sums) / (weight @ counts) for weight in weights])


_KEPT = 2**21


def _weights(users: int, resamples: int) -> Iterator[NDArray[np.float64]]:
    """How often each user is drawn, float64 [U], one array after the other."""
    random = np.random.default_rng(BOOTSTRAP_SEED)
    for _ in range(resamples):
        yield np.bincount(random.integers(0, users, users), minlength=users).astype(np.float64)


@lru_cache(maxsize=4)
def _kept_weights(users: int, resamples: int) -> list[NDArray[np.float64]]:
    """The same, kept for the next call: a calibration draws some hundred times for the same users."""
    return list(_weights(users, resamples))
