"""Rankings judged with users as the unit: AUC, user AUC, NDCG@10 and log loss, their 95 % intervals, and paired differences.

    judgement = Judgement(users, liked)
    mine, other = judgement.of(score), judgement.of(reference)
    mine.interval(), mine.minus(other).interval()

Rules
1. AUC is over all pairs. User AUC and NDCG@10 are means over the users with both labels; NDCG counts ties as their average.
2. Log loss is a mean over pairs, of probabilities.
3. Intervals are percentiles of a bootstrap over users; the draws are the same for everything a Judgement judges, so a difference
   is paired.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rexit.ranking import BOOTSTRAP_SEED, RESAMPLES, ByUser

METRICS = ("auc", "user_auc", "ndcg@10", "log_loss")
TOP = 10
MIN_PROBABILITY = 1e-7
"""What a probability counts as that float32 has rounded to none."""

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """METRICS of one ranking: float64 [1 + RESAMPLES, 4], the first row of all users, the others of the draws."""

    values: Values

    def minus(self, other: Measured) -> Measured:
        return Measured(self.values - other.values)

    def interval(self) -> dict[str, tuple[float, float, float]]:
        """Value, low and high of each metric; nan where it has none."""
        low, high = np.percentile(self.values[1:], [2.5, 97.5], axis=0)
        rows = zip(self.values[0].tolist(), low.tolist(), high.tolist(), strict=True)
        return dict(zip(METRICS, rows, strict=True))


class Ranking:
    """A ranking whose AUC can be taken again under other weights. Sorted once. score: float [n]; liked: bool [n]."""

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


class Judgement:
    """Of pairs: users int64 [n]; liked bool [n]."""

    def __init__(self, users: NDArray[np.int64], liked: NDArray[np.bool_]) -> None:
        self._liked = liked
        self._by_user = ByUser(users, liked)
        self._users = self._by_user.numbers
        count = len(self._by_user.pairs)
        random = np.random.default_rng(BOOTSTRAP_SEED)
        draws = [np.bincount(random.integers(0, count, count), minlength=count) for _ in range(RESAMPLES)]
        self._weights = np.array([np.ones(count), *draws], np.float64)
        """How often each user counts: of all users once, of each draw."""

    def of(self, score: NDArray[np.floating], probability: Values | None = None) -> Measured:
        """score float [n], the larger the likelier; probability float [n] of a like, without it the log loss is nan."""
        ranking = Ranking(score, self._liked)
        areas = [ranking.auc(weights[self._users]) for weights in self._weights]
        columns = [
            np.array(areas),
            self._mean(self._by_user.auc(score)),
            self._mean(self._by_user.ndcg(score, TOP)),
        ]
        if probability is None:
            columns.append(np.full(len(areas), np.nan))
        else:
            right = np.where(self._liked, probability, 1 - probability)
            loss = -np.log(np.maximum(right, MIN_PROBABILITY))
            columns.append(self._weights @ np.bincount(self._users, loss) / (self._weights @ np.bincount(self._users)))
        return Measured(np.stack(columns, 1))

    def _mean(self, per_user: Values) -> Values:
        """Over the users that have a value: [1 + RESAMPLES], nan for a draw in which none has."""
        known = np.isfinite(per_user)
        weights = self._weights[:, known]
        with np.errstate(invalid="ignore"):
            mean: Values = weights @ per_user[known] / weights.sum(1)
        return mean


def mean(measured: Sequence[Measured]) -> Measured:
    """Of several seeds."""
    return Measured(np.mean([run.values for run in measured], 0))
