"""Numbers in eight and four bits.

Weights in int8 have a scale per column and are rounded so that products with real inputs change least: later rows compensate
for the rounding errors of earlier rows.

    scale[n] = max |W[:, n]| / 127
    H = sum_t a[t] x[t] x[t]^T,   a[t] = 1 / |x[t] W|^2        of sampled inputs x [R, K]
    row k of W, the most active first:  q = round(w / scale);  later rows change by  -(w - q) U[k, rest] / U[k, k]
    U^T U = H^-1, U upper triangular

GPTQ (Frantar et al., arXiv 2210.17323), in float64. Without a sample every number is rounded to the nearest. Our changes:

1. Tokens count relative to their output. As scales are per token, the outlier token alone would decide otherwise.
2. H gets the rounding noise of the inputs, scale[t]^2 / 12 on its diagonal, and DAMPING of its mean. Otherwise weights would
   overfit a sample of fewer than K rows, or the rare large inputs of `down`.

The fixed scale of a linear layer's input: how many of the largest numbers it cuts off.

    error(m) = sum_{|x| > m} (|x| - m)^2  +  #{|x| <= m} (m / 127)^2 / 12

m has the least mean square error on sampled rows, with rounding as uniform noise. The largest magnitude, percentiles and the
entropy of TensorRT's calibrator are compared with it in docs/notes/precision/tensorrt.md: its log-odds were the closest to
float32's.

Blocks of weights are rounded to the integers -8 … 7, with a scale per block.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

LARGEST = 127
TINY = 1e-30
"""Smallest scale of an input times LARGEST, so that a token of zeros can be divided by its scale."""
DAMPING = 0.1
_BLOCK = 64
"""Rows after which later rows are compensated in one product."""
_OUTPUT_FLOOR = 1e-9
"""Smallest output of a token, relative to the largest, so that a zero output does not dominate."""

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


def round_weights(weight: Floats, x: Floats | None = None) -> tuple[NDArray[np.int8], Floats]:
    """Rounds a weight [K, N]; x: sampled inputs [R, K]. Returns int8 [K, N] in -127 … 127 and column scales float32 [N]."""
    scale = (np.abs(weight).max(0) / np.float32(LARGEST)).astype(np.float32)
    scale[scale == 0] = 1
    return rounded_weights(weight, scale, x), scale


def rounded_weights(weight: Floats, scale: Floats, x: Floats | None = None, input_scale: float | None = None) -> NDArray[np.int8]:
    """Rounds a weight [K, N] with given column scales [N].

    Args:
        weight: float32 [K, N].
        scale: float32 [N].
        x: sampled inputs [R, K]; None: round to the nearest.
        input_scale: the scale of all inputs; None: a scale per token.

    Returns:
        int8 [K, N].
    """
    if x is None or not (np.isfinite(x).all() and (x @ weight).any()):
        nearest: NDArray[np.int8] = np.rint(weight / scale).astype(np.int8)
        return nearest
    return _compensated(weight, scale, _moments(weight, x, input_scale))


def _compensated(weight: Floats, scale: Floats, moments: Doubles) -> NDArray[np.int8]:
    order = np.argsort(-moments.diagonal(), kind="stable")
    inverse = np.linalg.inv(moments[np.ix_(order, order)])
    upper = np.linalg.cholesky((inverse + inverse.T) / 2).T
    remaining, rounded = weight[order].astype(np.float64), np.empty(weight.shape)
    for begin in range(0, len(remaining), _BLOCK):
        end = min(begin + _BLOCK, len(remaining))
        errors = np.empty((end - begin, remaining.shape[1]))
        for k in range(begin, end):
            rounded[k] = np.clip(np.rint(remaining[k] / scale), -LARGEST, LARGEST)
            errors[k - begin] = (remaining[k] - rounded[k] * scale) / upper[k, k]
            remaining[k + 1 : end] -= np.outer(upper[k, k + 1 : end], errors[k - begin])
        remaining[end:] -= upper[begin:end, end:].T @ errors
    out = np.empty(weight.shape, np.int8)
    out[order] = rounded
    return out


def _moments(weight: Floats, x: Floats, input_scale: float | None) -> Doubles:
    rows = x.astype(np.float64)
    size = np.square(rows @ weight).sum(1)
    share = 1 / np.maximum(size, size.max() * _OUTPUT_FLOOR)
    share /= share.sum()
    moments: Doubles = (rows * share[:, None]).T @ rows
    noise = (share @ np.square(np.abs(rows).max(1) / LARGEST) if input_scale is None else input_scale**2) / 12
    moments[np.diag_indices_from(moments)] += noise + DAMPING * moments.diagonal().mean()
    return moments


_BINS = 8192


def clipping_bound(x: Floats) -> float:
    """m for sampled inputs of any shape; 0 for zeros."""
    counts, edges = np.histogram(np.abs(x), _BINS, (0, float(np.abs(x).max()) or 1.0))
    middle, edge = (edges[1:] + edges[:-1]) / 2, edges[1:]
    # Over the bins behind each bin: the number of values, their sum, their sum of squares.
    many, sums, squares = (np.cumsum((counts * middle**power)[::-1])[::-1] - counts * middle**power for power in range(3))
    error = squares - 2 * edge * sums + edge**2 * many + (counts.sum() - many) * (edge / LARGEST) ** 2 / 12
    return float(edge[np.argmin(error)]) if x.any() else 0.0


def rounded_by(x: Floats, scale: np.float32) -> Floats:
    """x rounded to int8 with this scale, as float32."""
    rounded: Floats = np.clip(np.rint(x / scale), -LARGEST, LARGEST) * scale
    return rounded


def best_scale(blocks: Floats, scales: Iterable[Floats], axis: int) -> Floats:
    """The scale with the least squared error of each block, among scales that clip its largest weight more or less.

    Args:
        blocks: weights of any shape.
        scales: the candidates; size 1 along `axis`.
        axis: the axis along which a block's weights lie.
    """
    candidates = list(scales)
    best, least = np.ones_like(candidates[0]), np.full_like(candidates[0], np.inf)
    for candidate in candidates:
        error = np.square(rounded(blocks, candidate) * candidate - blocks).sum(axis, keepdims=True)
        best, least = np.where(error < least, candidate, best), np.minimum(error, least)
    return best


def rounded(blocks: Floats, scale: Floats) -> Floats:
    """The integers, as float32."""
    integers: Floats = np.clip(np.rint(blocks / scale), -8, 7)
    return integers
