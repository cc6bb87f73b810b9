"""Rounding of weights: less error on inputs like the sampled ones, and the nearest numbers where there is no usable sample."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from builders.onnx_graphs.graphs import weight
from rexit.exporter.graph.rounding import round_weights

K, N = 96, 40


def _inputs(rows: int, seed: int = 0) -> NDArray[np.float32]:
    """Correlated: they lie close to 12 directions."""
    directions = np.random.default_rng(99).standard_normal((12, K))
    random = np.random.default_rng(seed)
    x = random.standard_normal((rows, 12)) @ directions + 0.1 * random.standard_normal((rows, K))
    return x.astype(np.float32)


def _error(x: NDArray[np.float32], rounded: tuple[NDArray[np.int8], NDArray[np.float32]]) -> float:
    values, scale = rounded
    exact = x @ weight(K, N)
    return float(np.square(x @ (values * scale) - exact).sum() / np.square(exact).sum())


@pytest.mark.parametrize("rows", [600, 60])
def test_less_error_on_inputs_that_were_not_sampled(rows: int) -> None:
    """Also with fewer rows than channels."""
    judged = _inputs(200, seed=5)
    assert _error(judged, round_weights(weight(K, N), _inputs(rows))) < 0.4 * _error(judged, round_weights(weight(K, N)))


def test_an_outlier_token_does_not_decide() -> None:
    """One token is 1000 times as large as the others and unlike them."""
    x = _inputs(300)
    x[0] = 1000 * np.random.default_rng(3).standard_normal(K)
    judged = _inputs(200, seed=5)
    assert _error(judged, round_weights(weight(K, N), x)) < 0.5 * _error(judged, round_weights(weight(K, N)))


def test_scales_and_range_are_those_of_plain_rounding() -> None:
    plain, fitted = round_weights(weight(K, N)), round_weights(weight(K, N), _inputs(300))
    np.testing.assert_array_equal(fitted[1], plain[1])
    assert fitted[0].dtype == np.int8 and fitted[0].min() >= -127 and np.abs(fitted[0].astype(int) - plain[0]).max() >= 1


@pytest.mark.parametrize("x", [np.zeros((5, K)), np.full((5, K), np.inf), np.full((5, K), np.nan)])
def test_a_sample_that_says_nothing_is_not_used(x: NDArray[np.float64]) -> None:
    with np.errstate(invalid="ignore"):
        fitted = round_weights(weight(K, N), x.astype(np.float32))
    np.testing.assert_array_equal(fitted[0], round_weights(weight(K, N))[0])


def test_tokens_and_columns_of_zeros() -> None:
    x, w = _inputs(300), weight(K, N).copy()
    x[:50], w[:, 3] = 0, 0
    values, scale = round_weights(w, x)
    assert scale[3] == 1 and not values[:, 3].any() and values[:, 4].any()
    np.testing.assert_array_equal(values, round_weights(w, x[50:])[0])
