"""A fixed scale: the bound with the least mean square error, robust to a few outliers."""

from __future__ import annotations

import numpy as np
import pytest

from rexit.exporter.graph.rounding import clipping_bound

X = np.random.default_rng(0).standard_normal((60, 32)).astype(np.float32)


def _error(largest: float, x: np.ndarray) -> float:
    """What rounding to int8 really loses."""
    scale = largest / 127
    return float(np.square(x - np.clip(np.rint(x.astype(np.float64) / scale), -127, 127) * scale).mean())


@pytest.mark.parametrize("outlier", [1.0, 5.0, 100.0, 3000.0])
def test_no_other_loses_less(outlier: float) -> None:
    x = X.copy()
    x[0, 3] *= outlier
    bound = clipping_bound(x)
    best = min(_error(largest, x) for largest in np.abs(x).max() * np.linspace(0.001, 1, 1000))
    assert _error(bound, x) < 1.15 * best
    assert bound <= np.abs(x).max() * (1 + 1e-6)


def test_a_few_large_numbers_are_cut_off_and_many_are_not() -> None:
    few, many = np.tile(X, (100, 1)), np.tile(X, (100, 1))
    few[0, 3], many[:, 3] = 20, 20
    assert clipping_bound(few) < 15 and clipping_bound(many) > 19


def test_zeros() -> None:
    assert clipping_bound(np.zeros((3, 4), np.float32)) == 0
