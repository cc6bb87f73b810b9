"""How good a policy is on a split: ranking, calibration, depth, cost, and how sure we are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rexit.bundle import Policy
from rexit.calibration.costs import Costs
from rexit.calibration.traces import Traces

BOOTSTRAP_SEED = 20250102


@dataclass(frozen=True)
class Quality:
    """auc: over all pairs, ranked by c where each stopped. user_auc: mean over users with both labels (nan if none).

    logloss in nats; mean_layers over candidates; cost_us is the cost model's mean per slate.
    """

    auc: float
    user_auc: float
    logloss: float
    mean_layers: float
    cost_us: float


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


def logloss(c: NDArray[np.float32], liked: NDArray[np.bool_]) -> float:
    """Mean negative log-likelihood in nats of calibrated log-odds c [n]."""
    c64 = c.astype(np.float64)
    return float(np.mean(np.logaddexp(0.0, c64) - c64 * liked))


def user_auc(score: NDArray[np.float32], traces: Traces) -> float:
    """Mean of each user's own AUC, over users with both labels; nan if there is none. A user's pairs stand together."""
    starts = np.flatnonzero(np.r_[True, traces.users[1:] != traces.users[:-1]])
    ends = np.r_[starts[1:], len(traces)]
    each = [auc(score[a:b], traces.liked[a:b]) for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]
    known = [value for value in each if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def at_exit(c: NDArray[np.float32], stops: NDArray[np.int64]) -> NDArray[np.float32]:
    """Each candidate's c where it stopped: float32 [n] from [n, E]."""
    return np.take_along_axis(c, stops[:, None], axis=1)[:, 0]


def evaluate(
    traces: Traces, policy: Policy, layers: tuple[int, ...], costs: Costs, stops: NDArray[np.int64] | None = None
) -> Quality:
    """A policy on a split; `stops` int64 [n] overrides where it stops (a fixed depth). layers: depth of each exit."""
    stops = policy.stops(traces.log_odds) if stops is None else stops
    c = at_exit(policy.calibrated(traces.log_odds), stops)
    return Quality(
        auc(c, traces.liked),
        user_auc(c, traces),
        logloss(c, traces.liked),
        float(np.array(layers)[stops].mean()),
        costs.mean(stops, traces.offsets),
    )


def auc_difference(
    traces: Traces, score: NDArray[np.float32], reference: NDArray[np.float32], resamples: int = 1000
) -> tuple[float, float, float]:
    """AUC(score) - AUC(reference) and its 95 % interval.

    A paired bootstrap over users (percentile, seeded): a user's pairs are not independent, so users are drawn, not pairs; both
    rankings are weighted by the same draw, so what they share cancels out.
    """
    ranking, baseline = Ranking(score, traces.liked), Ranking(reference, traces.liked)
    users = int(traces.users.max()) + 1
    random = np.random.default_rng(BOOTSTRAP_SEED)
    differences = []
    for _ in range(resamples):
        weights = np.bincount(random.integers(0, users, users), minlength=users).astype(np.float64)[traces.users]
        differences.append(ranking.auc(weights) - baseline.auc(weights))
    low, high = np.nanpercentile(differences, [2.5, 97.5])
    return ranking.auc() - baseline.auc(), float(low), float(high)
