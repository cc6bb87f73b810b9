"""How well scores rank what users liked, and how sure a difference is. The exporter and calibration judge by the same."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BOOTSTRAP_SEED = 20250102


class Ranking:
    """A ranking whose AUC can be taken again under other weights: score float [n], liked bool [n]. Sorted once."""

    def __init__(self, score: NDArray[np.float32], liked: NDArray[np.bool_]) -> None:
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


def user_auc(score: NDArray[np.float32], users: NDArray[np.int64], liked: NDArray[np.bool_]) -> float:
    """Mean of each user's own AUC, over users with both labels; nan if there is none. A user's pairs stand together."""
    starts = np.flatnonzero(np.r_[True, users[1:] != users[:-1]])
    ends = np.r_[starts[1:], len(users)]
    each = [auc(score[a:b], liked[a:b]) for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]
    known = [value for value in each if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def auc_difference(
    score: NDArray[np.float32],
    reference: NDArray[np.float32],
    users: NDArray[np.int64],
    liked: NDArray[np.bool_],
    resamples: int = 1000,
) -> tuple[float, float, float]:
    """AUC(score) - AUC(reference) and its 95 % interval. users int64 [n]: numbers from 0 on, none left out.

    A paired bootstrap over users (percentile, seeded): a user's pairs are not independent, so users are drawn, not pairs; both
    rankings are weighted by the same draw, so what they share cancels out.
    """
    ranking, baseline = Ranking(score, liked), Ranking(reference, liked)
    count = int(users.max()) + 1
    random = np.random.default_rng(BOOTSTRAP_SEED)
    differences = []
    for _ in range(resamples):
        weights = np.bincount(random.integers(0, count, count), minlength=count).astype(np.float64)[users]
        differences.append(ranking.auc(weights) - baseline.auc(weights))
    low, high = np.nanpercentile(differences, [2.5, 97.5])
    return ranking.auc() - baseline.auc(), float(low), float(high)
