"""One scale for all tokens: the least mean square error of all that could be kept, whatever a few outliers are."""

from __future__ import annotations

import numpy as np
import pytest

from rexit.exporter.graph.precision.fixed_scale import largest_kept

X = np.random.default_rng(0).standard_normal((60, 32)).astype(np.float32)


def _error(largest: float, x: np.ndarray) -> float:
    """What rounding to int8 really loses."""
    scale = largest / 127
    return float(np.square(x - np.clip(np.rint(x.astype(np.float64) / scale), -127, 127) * scale).mean())


@pytest.mark.parametrize("outlier", [1.0, 5.0, 100.0, 3000.0])
def test_no_other_loses_less(outlier: float) -> None:
    x = X.copy()
    x[0, 3] *= outlier
    found = largest_kept(x)
    best = min(_error(largest, x) for largest in np.abs(x).max() * np.linspace(0.001, 1, 1000))
    assert _error(found, x) < 1.15 * best
    assert found <= np.abs(x).max() * (1 + 1e-6)


def test_a_few_large_numbers_are_cut_off_and_many_are_not() -> None:
    few, many = np.tile(X, (100, 1)), np.tile(X, (100, 1))
    few[0, 3], many[:, 3] = 20, 20
    assert largest_kept(few) < 15 and largest_kept(many) > 19


def test_zeros() -> None:
    assert largest_kept(np.zeros((3, 4), np.float32)) == 0
