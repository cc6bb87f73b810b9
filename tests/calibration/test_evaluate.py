"""A policy on a split: logloss against scikit-learn, layers and costs by hand."""

import numpy as np
import pytest
from sklearn.metrics import log_loss

from builders.traces import even_costs, traces
from rexit.bundle import ExitPolicy, Policy
from rexit.calibration.evaluate import evaluate, logloss


def test_logloss_is_that_of_sklearn_and_survives_large_log_odds() -> None:
    c = np.array([-300, -1, 0, 2, 300], np.float32)
    liked = np.array([False, True, False, True, True])
    assert logloss(c, liked) == pytest.approx(log_loss(liked, 1 / (1 + np.exp(-c.astype(float)))), abs=1e-9)


def test_evaluate_counts_layers_and_costs_where_each_candidate_stops() -> None:
    t = traces(50, 10, [1.0, 0.5, 0.0])
    policy = Policy((ExitPolicy(upper=1.0, lower=1.0), ExitPolicy(), ExitPolicy()), 1, "")
    early = np.abs(t.log_odds[:, 0]) >= 1
    quality = evaluate(t, policy, (2, 4, 6), even_costs(3))
    assert quality.mean_layers == pytest.approx(2 * early.mean() + 6 * (1 - early.mean()))
    per_slate = (1 - early).reshape(-1, 10)
    expected = 5 + (10 + 20 * (per_slate.max(1) > 0) + 10 * (1 + 2 * per_slate).sum(1)).mean()
    assert quality.cost_us == pytest.approx(expected)
