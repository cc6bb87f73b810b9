"""The utility's log-odds."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from rexit.bundle import ExitPolicy, Policy
from rexit.bundle.policy import utility_log_odds

IDENTITY = [[(1.0, 0.0), (1.0, 0.0)]]


def log_odds_of(weights: list[float], *z: float) -> float:
    return float(utility_log_odds(weights, IDENTITY, np.array([[z]], np.float32))[0][0, 0])


def test_it_is_the_weighted_sum_of_probabilities() -> None:
    random = np.random.default_rng(0)
    weights, maps = [1.0, -0.5, 2.0], [[(1.5, 0.25), (0.5, -1.0), (1.0, 0.0)], [(1.0, 0.0)] * 3]
    z = np.float32(random.normal(0, 3, (50, 2, 3)))
    x, probabilities = utility_log_odds(weights, maps, z)
    a, b = (np.array([[pair[i] for pair in of_exit] for of_exit in maps]) for i in (0, 1))
    p = 1 / (1 + np.exp(-(a * z + b)))
    u = (p @ np.array(weights) + 0.5) / 3.5
    np.testing.assert_allclose(probabilities, p, rtol=1e-6)
    np.testing.assert_allclose(x, np.log(u / (1 - u)), rtol=1e-5, atol=1e-6)


def test_it_is_finite_and_monotone_where_probabilities_saturate() -> None:
    largest = float(np.finfo(np.float32).max)
    for weights in ([1.0, 1.0], [1e9, 1e-30], [1.0, -1.0]):
        z = [-largest, -1e6, -700.0, -40.0, 0.0, 40.0, 700.0, 1e6, largest]
        x = [log_odds_of(weights, value, math.copysign(1, weights[1]) * value) for value in z]
        assert np.isfinite(x).all() and (np.diff(x) >= 0).all() and x[3] < x[4] < x[5]


MAPS = ((1.5, 0.25), (0.5, -1.0))
POLICY = Policy(
    (ExitPolicy(1.25, 0.5, 1.0, 2.0, objectives=MAPS), ExitPolicy(objectives=MAPS[::-1])),
    1,
    "d",
    utility={"click": 1.0, "like": -2.5},
)


def test_a_policy_is_read_as_written(tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    POLICY.write(path)
    assert Policy.read(path, 2, "d", ("click", "like")) == POLICY
    assert list(Policy.read(path, 2, "d", ("like", "click")).utility.values()) == [-2.5, 1.0], "the variant's order"


def test_it_decides_on_the_utility() -> None:
    z = np.float32(np.random.default_rng(1).normal(0, 3, (200, 2, 2)))
    offsets = np.array([0, 200])
    x = POLICY.head_log_odds(z)
    np.testing.assert_array_equal(POLICY.stops(z, offsets), POLICY.stops(x, offsets))
    np.testing.assert_array_equal(POLICY.calibrated(z), POLICY.calibrated(x))
    c = x[:, 0] * np.float32(1.25) + np.float32(0.5)
    np.testing.assert_array_equal(POLICY.stops(z, offsets), np.where((c >= 1) | (c <= -2), 0, 1))


def test_exit_ranges_hold_whatever_rounding_does() -> None:
    random = np.random.default_rng(2)
    z, margin, offsets = np.float32(random.normal(0, 2, (500, 2, 2))), 0.05, np.array([0, 500])
    earliest, latest = POLICY.exit_range(z, margin, offsets)
    for _ in range(20):
        moved = z + np.float32(random.uniform(-margin, margin, z.shape))
        stops = POLICY.stops(moved, offsets)
        assert ((earliest <= stops) & (stops <= latest)).all()
    assert (earliest < latest).any() and (earliest == latest).mean() > 0.8
