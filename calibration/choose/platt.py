"""One map per exit from raw log-odds to calibrated ones, so that scores from different depths rank together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from rexit.bundle import ExitPolicy, Policy
from rexit.bundle.policy import MAX_INTERCEPT, MAX_SLOPE

Labels = NDArray[np.bool_] | NDArray[np.float64]
"""Labels, or probabilities of a like."""

USELESS_SLOPE = 1e-6
FOLDS = 5


@dataclass(frozen=True)
class PlattMap:
    """c = a z + b, a > 0.

    Attributes:
        a, b: slope and intercept.
        useful: False if the head ranks backwards or not at all: its exit must never stop.
        earlier: weights of the heads before it, which add to c (see `maps`), while a may have any sign; empty: they add nothing.
    """

    a: float
    b: float
    useful: bool
    earlier: tuple[float, ...] = ()


def fit(log_odds: NDArray[np.float32], liked: Labels) -> PlattMap:
    """Returns the map with which P(liked) = sigmoid(a z + b) is most likely.

    Platt (1999), "Probabilistic outputs for support vector machines", with the targets of the paper, (N+ + 1)/(N+ + 2) and
    1/(N- + 2), which keep the slope finite if one threshold separates the labels. a and b are rounded to float32, as in the
    runtime.

    Args:
        log_odds: raw, float32 [n].
        liked: bool [n], with both labels present; or probabilities of a like, float64 [n], which are the targets themselves.
    """
    z = log_odds.astype(np.float64)
    positives = float(liked.sum())
    negatives = len(liked) - positives
    centre, scale = float(z.mean()), float(z.std())
    a, b = 0.0, 0.0
    if scale > 0:
        features = np.stack([(z - centre) / scale, np.ones_like(z)])
        slope, intercept = logistic_regression(features, targets(liked)).tolist()
        a = slope / scale
        b = intercept - a * centre
    # Too steep: log-odds that differ only by rounding.
    if a <= USELESS_SLOPE or a > MAX_SLOPE or abs(b) > MAX_INTERCEPT:
        prior = float(np.log(positives / negatives))
        return PlattMap(float(np.float32(USELESS_SLOPE)), float(np.float32(prior)), False)
    return PlattMap(float(np.float32(a)), float(np.float32(b)), True)


def targets(liked: Labels) -> NDArray[np.float64]:
    """Returns Platt's targets, float64 [n]. liked: bool [n]; or probabilities, float64 [n], which stay as they are."""
    if liked.dtype != np.bool_:
        return np.asarray(liked, np.float64)
    positives = int(liked.sum())
    negatives = len(liked) - positives
    return np.asarray(np.where(liked, (positives + 1) / (positives + 2), 1 / (negatives + 2)), np.float64)


def logistic_regression(features: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the weights, float64 [d], with the least cross-entropy. scikit-learn's regression takes no targets between 0 and 1.

    Args:
        features: float64 [d, n], of mean 0 and variance 1; the last is 1 for all: the intercept.
        target: from 0 to 1, float64 [n].
    """
    count, pairs = features.shape

    def loss(weights: NDArray[np.float64]) -> float:
        c = weights @ features
        return float(np.mean(np.logaddexp(0.0, c) - target * c))

    def gradient(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(features @ (expit(weights @ features) - target) / pairs)

    def hessian(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        p = expit(weights @ features)
        return np.asarray((features * (p * (1 - p))) @ features.T / pairs)

    best = minimize(loss, np.zeros(count), method="trust-exact", jac=gradient, hess=hessian, options={"gtol": 1e-10})
    return np.asarray(best.x, np.float64)


def fit_all(log_odds: NDArray[np.float32], liked: Labels) -> tuple[PlattMap, ...]:
    """Returns one map per exit. log_odds: raw, float32 [n, E]; liked: bool [n]."""
    return tuple(fit(log_odds[:, k], liked) for k in range(log_odds.shape[1]))


def apply(maps: Sequence[PlattMap], log_odds: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns c, float32 [n, E], computed as in the runtime. log_odds: raw, float32 [n, E]."""
    return Policy(tuple(ExitPolicy(m.a, m.b, earlier=m.earlier) for m in maps), 1, "").calibrated(log_odds)


def cross_fit(log_odds: NDArray[np.float32], liked: Labels, users: NDArray[np.int64]) -> NDArray[np.float32]:
    """Returns c, float32 [n, E], by maps that have not seen the pair's user: fitted on the other FOLDS - 1 parts of the users.

    Users are dealt out in turn, in the catalog's order, which does not depend on labels. If the other parts lack one of the
    labels, a part gets the map of all users.

    Args:
        log_odds: raw, float32 [n, E].
        liked: bool [n].
        users: int64 [n], numbered from 0.
    """
    c = np.empty_like(log_odds)
    fold = users % FOLDS
    for part in range(FOLDS):
        inside = fold == part
        others = ~inside
        both_labels = bool(others.any()) and 0 < liked[others].mean() < 1
        maps = fit_all(log_odds[others], liked[others]) if both_labels else fit_all(log_odds, liked)
        c[inside] = apply(maps, log_odds[inside])
    return c
