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

from rexit.data.ranking import BOOTSTRAP_SEED, RESAMPLES, ByUser

METRICS = ("auc", "user_auc", "ndcg@10", "log_loss")
TOP = 10
MIN_PROBABILITY = 1e-7  # smaller ones, which float32 may have rounded to 0, count as this one

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """METRICS of one ranking: float64 [1 + RESAMPLES, 4]. The first row is over all users, the others are the draws."""

    values: Values

    def minus(self, other: Measured) -> Measured:
        return Measured(self.values - other.values)

    def interval(self) -> dict[str, tuple[float, float, float]]:
        """Returns value, low and high of each metric; nan for a metric without a value."""
        low, high = np.percentile(self.values[1:], [2.5, 97.5], axis=0)
        rows = zip(self.values[0].tolist(), low.tolist(), high.tolist(), strict=True)
        return dict(zip(METRICS, rows, strict=True))


class Ranking:
    """A ranking, sorted once, whose AUC can be computed under many weights. score: float [n]; liked: bool [n]."""

    def __init__(self, score: NDArray[np.floating], liked: NDArray[np.bool_]) -> None:
        self._order = np.argsort(score)
        ordered = score[self._order]
        self._starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
        self._liked = liked[self._order]

    def auc(self, weights: NDArray[np.float64] | None = None) -> float:
        """Returns the area under the ROC curve, ties counted half; nan without both labels. weights: of pairs, float64 [n]."""
        weight = np.ones(len(self._order)) if weights is None else weights[self._order]
        positive = np.add.reduceat(np.where(self._liked, weight, 0.0), self._starts)
        negative = np.add.reduceat(np.where(self._liked, 0.0, weight), self._starts)
        pairs = positive.sum() * negative.sum()
        below = np.cumsum(negative) - negative
        return float(positive @ (below + negative / 2) / pairs) if pairs > 0 else float("nan")


class Judgement:
    """Judges rankings of pairs. users: int64 [n]; liked: bool [n]."""

    def __init__(self, users: NDArray[np.int64], liked: NDArray[np.bool_]) -> None:
        self._liked = liked
        self._by_user = ByUser(users, liked)
        self._users = self._by_user.numbers
        count = len(self._by_user.pairs)
        random = np.random.default_rng(BOOTSTRAP_SEED)
        draws = [np.bincount(random.integers(0, count, count), minlength=count) for _ in range(RESAMPLES)]
        self._weights = np.array([np.ones(count), *draws], np.float64)
        """How often each user counts: once, then in each draw."""

    def of(self, score: NDArray[np.floating], probability: Values | None = None) -> Measured:
        """Returns the metrics of a ranking.

        Args:
            score: the larger the likelier, float [n].
            probability: of a like, float [n]; None: there is no log loss.
        """
        ranking = Ranking(score, self._liked)
        area = np.array([ranking.auc(weights[self._users]) for weights in self._weights])
        log_loss = np.full(len(area), np.nan)
        if probability is not None:
            right = np.where(self._liked, probability, 1 - probability)
            losses = -np.log(np.maximum(right, MIN_PROBABILITY))
            log_loss = self._weights @ np.bincount(self._users, losses) / (self._weights @ np.bincount(self._users))
        user_auc, ndcg = self._mean(self._by_user.auc(score)), self._mean(self._by_user.ndcg(score, TOP))
        return Measured(np.stack([area, user_auc, ndcg, log_loss], 1))

    def _mean(self, per_user: Values) -> Values:
        """The mean over users with a value, [1 + RESAMPLES]; nan for a draw without any."""
        known = np.isfinite(per_user)
        weights = self._weights[:, known]
        with np.errstate(invalid="ignore"):
            mean: Values = weights @ per_user[known] / weights.sum(1)
        return mean


def mean(measured: Sequence[Measured]) -> Measured:
    """Returns the mean over several seeds."""
    return Measured(np.mean([run.values for run in measured], 0))
