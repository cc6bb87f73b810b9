"""Platt maps against known maps and degenerate heads."""

import numpy as np
import pytest

from rexit.calibration.maps import USELESS_SLOPE, cross_fit, fit


def test_recovers_a_known_map() -> None:
    random = np.random.default_rng(0)
    z = random.normal(3, 2, 40_000).astype(np.float32)
    liked = random.random(len(z)) < 1 / (1 + np.exp(-(0.7 * z - 2.5)))
    fitted = fit(z, liked)
    assert fitted.useful
    assert fitted.a == pytest.approx(0.7, abs=0.03)
    assert fitted.b == pytest.approx(-2.5, abs=0.1)


def test_separable_labels_stay_finite() -> None:
    z = np.array([-2, -1, 1, 2], np.float32)
    fitted = fit(z, z > 0)
    assert fitted.useful and 0 < fitted.a < 10 and abs(fitted.b) < 1e-3


@pytest.mark.parametrize(
    "z",
    [np.zeros(1000, np.float32), np.linspace(0, 1e-12, 1000, dtype=np.float32), np.linspace(1, -1, 1000, dtype=np.float32)],
    ids=["constant", "constant but for rounding", "backwards"],
)
def test_useless_head_never_stops_and_says_the_base_rate(z: np.ndarray) -> None:
    liked = np.arange(1000) >= 800
    fitted = fit(z, liked)
    assert not fitted.useful
    assert fitted.a == pytest.approx(USELESS_SLOPE)
    assert 1 / (1 + np.exp(-fitted.b)) == pytest.approx(0.2, abs=1e-3)


def test_no_map_has_seen_the_user_it_is_applied_to() -> None:
    """Else the search judges policies by maps that know the answers."""
    random = np.random.default_rng(3)
    users, z = np.repeat(np.arange(10), 20), random.normal(0, 1, (200, 2)).astype(np.float32)
    liked = random.random(200) < 1 / (1 + np.exp(-z[:, 1]))
    turned = np.where(users == 3, ~liked, liked)
    changed = (cross_fit(z, liked, users) != cross_fit(z, turned, users)).any(axis=1)
    assert (changed == (users % 5 != 3)).all(), "3 and 8 are in one fold, the others are not"


def test_numbers_are_float32() -> None:
    random = np.random.default_rng(2)
    z = random.normal(0, 1, 500).astype(np.float32)
    fitted = fit(z, random.random(500) < 0.5 + 0.2 * np.sign(z))
    assert fitted.a == float(np.float32(fitted.a)) and fitted.b == float(np.float32(fitted.b))
