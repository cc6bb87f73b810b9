"""One map per exit from raw log-odds to calibrated ones, so that scores from different depths rank together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rexit.bundle.policy import MAX_INTERCEPT, MAX_SLOPE

USELESS_SLOPE = 1e-6
FOLDS = 5


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
        model = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000, solver="newton-cholesky")
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


def fit_all(log_odds: NDArray[np.float32], liked: NDArray[np.bool_]) -> tuple[PlattMap, ...]:
    """One map per exit: log_odds float32 [n, E]."""
    return tuple(fit(log_odds[:, k], liked) for k in range(log_odds.shape[1]))


def apply(maps: Sequence[PlattMap], log_odds: NDArray[np.float32]) -> NDArray[np.float32]:
    """c float32 [n, E], computed as in the runtime."""
    a, b = (np.array([getattr(m, name) for m in maps], np.float32) for name in ("a", "b"))
    return log_odds * a + b


def cross_fit(log_odds: NDArray[np.float32], liked: NDArray[np.bool_], users: NDArray[np.int64]) -> NDArray[np.float32]:
    """c float32 [n, E] by maps that have not seen the pair's user: fitted on the other FOLDS - 1 parts of the users.

    users int64 [n]: numbers from 0 on. They are dealt out in turn, in the catalog's order, which does not depend on labels. A
    part without both labels among the others gets the map of all.
    """
    c = np.empty_like(log_odds)
    fold = users % FOLDS
    for part in range(FOLDS):
        held = fold == part
        others = ~held
        known = bool(others.any()) and not liked[others].all() and bool(liked[others].any())
        c[held] = apply(fit_all(log_odds[others], liked[others]) if known else fit_all(log_odds, liked), log_odds[held])
    return c
