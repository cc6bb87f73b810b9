"""One map per exit from raw log-odds to calibrated ones, so that scores from different depths rank together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rexit.bundle.policy import MAX_INTERCEPT, MAX_SLOPE

USELESS_SLOPE = 1e-6


@dataclass(frozen=True)
class PlattMap:
    """c = a z + b, a > 0. `useful` is False if the head ranks backwards or not at all: its exit must never stop."""

    a: float
    b: float
    useful: bool


def fit(log_odds: NDArray[np.float32], liked: NDArray[np.bool_]) -> PlattMap:
    """Fits P(liked) = sigmoid(a z + b) by maximum likelihood: log_odds float32 [n], liked bool [n] with both labels present.

    Platt (1999), "Probabilistic outputs for support vector machines", with the targets of the paper, (N+ + 1)/(N+ + 2) and
    1/(N- + 2), which keep the slope finite if one threshold separates the labels. a and b are rounded to float32, as in the
    runtime.
    """
    from sklearn.linear_model import LogisticRegression  # not part of the base install, which runs `rexit bench`

    z = log_odds.astype(np.float64)
    positives = int(liked.sum())
    negatives = len(liked) - positives
    centre, scale = float(z.mean()), float(z.std())
    target = np.where(liked, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    a, b = 0.0, 0.0
    if scale > 0:
        standard = ((z - centre) / scale)[:, None]
        model = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000)
        model.fit(
            np.concatenate([standard, standard]),
            np.repeat([1, 0], len(z)),
            sample_weight=np.concatenate([target, 1 - target]),
        )
        a = float(model.coef_[0, 0]) / scale
        b = float(model.intercept_[0]) - a * centre
    # Too steep: log-odds that differ only by rounding.
    if a <= USELESS_SLOPE or a > MAX_SLOPE or abs(b) > MAX_INTERCEPT:
        prior = float(np.log(positives / negatives))
        return PlattMap(float(np.float32(USELESS_SLOPE)), float(np.float32(prior)), False)
    return PlattMap(float(np.float32(a)), float(np.float32(b)), True)
