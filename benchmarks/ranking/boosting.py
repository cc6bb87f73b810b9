"""Gradient boosting on features as of a moment, to see how well a model does with the prompt's numbers instead of its words."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier

from rexit.calibration.metrics import log_losses

ROUNDS = 300
LEAVES = (4, 8, 16)

Scores = NDArray[np.float64]


def boosted(
    train: tuple[NDArray[np.float32], NDArray[np.bool_]],
    validation: tuple[NDArray[np.float32], NDArray[np.bool_]],
    test: NDArray[np.float32],
    leaves: tuple[int, ...] = LEAVES,
    seed: int = 0,
) -> tuple[Scores, Scores]:
    """Returns log-odds of validation and test pairs, by the leaves per tree and trees with the least log loss on validation."""
    best = np.inf
    result: tuple[Scores, Scores] = np.empty(0), np.empty(0)
    for count in leaves:
        model = HistGradientBoostingClassifier(
            max_iter=ROUNDS,
            learning_rate=0.05,
            max_leaf_nodes=count,
            min_samples_leaf=50,
            early_stopping=False,
            random_state=seed,
        ).fit(*train)
        losses = [log_losses(np.ravel(raw), validation[1]).mean() for raw in model.staged_decision_function(validation[0])]
        rounds = int(np.argmin(losses))
        if losses[rounds] < best:
            best = losses[rounds]
            result = tuple(_staged(model, features, rounds) for features in (validation[0], test))  # type: ignore[assignment]
    return result


def _staged(model: HistGradientBoostingClassifier, features: NDArray[np.float32], rounds: int) -> Scores:
    for n, raw in enumerate(model.staged_decision_function(features)):
        if n == rounds:
            return np.asarray(raw).reshape(-1)
    raise AssertionError
