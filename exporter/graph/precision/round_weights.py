"""Weights in int8, a scale per column, rounded so that their product with real inputs changes least: errors made in one row are
made up for in the rows that are not rounded yet.

    scale[n] = max |W[:, n]| / 127
    H = sum_t a[t] x[t] x[t]^T,   a[t] = 1 / |x[t] W|^2        of sampled inputs x [R, K]
    row k of W, the most active first:  q = round(w / scale);  the rows left change by  -(w - q) U[k, rest] / U[k, k]
    U^T U = H^-1, U upper triangular

GPTQ (Frantar et al., arXiv 2210.17323), in float64. Without a sample every number is rounded to the nearest. Ours:

1. Tokens count relative to their output, as scales are per token and the outlier token alone would decide otherwise.
2. H gets what rounding the inputs adds to it, their scale[t]^2 / 12 on its diagonal, and DAMPING of its mean: on fewer rows than
   K, or on the rare large values that go into `down`, weights would be fitted to the sample.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LARGEST = 127
DAMPING = 0.1
_BLOCK = 64
"""Rows after which those behind are made up for in one product."""
_FLOOR = 1e-9
"""Smallest output of a token, relative to the largest: one of zeros must not count as if it were all there is."""

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


def round_weights(weight: Floats, x: Floats | None = None) -> tuple[NDArray[np.int8], Floats]:
    """int8 [K, N] in -127 … 127 and the scale of each column, float32 [N], for a weight [K, N]; x: sampled inputs [R, K]."""
    scale = np.abs(weight).max(0) / np.float32(LARGEST)
    scale[scale == 0] = 1
    return rounded_weights(weight, scale, x), scale.astype(np.float32)


def rounded_weights(weight: Floats, scale: Floats, x: Floats | None = None, input_scale: float | None = None) -> NDArray[np.int8]:
    """The same for columns whose scales [N] are given. input_scale: of all inputs, where they do not have one per token."""
    if x is None or not (np.isfinite(x).all() and (x @ weight).any()):
        nearest: NDArray[np.int8] = np.rint(weight / scale).astype(np.int8)
        return nearest
    return _made_up_for(weight, scale, _moments(weight, x, input_scale))


def _made_up_for(weight: Floats, scale: Floats, moments: Doubles) -> NDArray[np.int8]:
    order = np.argsort(-moments.diagonal(), kind="stable")
    inverse = np.linalg.inv(moments[np.ix_(order, order)])
    upper = np.linalg.cholesky((inverse + inverse.T) / 2).T
    left, rounded = weight[order].astype(np.float64), np.empty(weight.shape)
    for begin in range(0, len(left), _BLOCK):
        end = min(begin + _BLOCK, len(left))
        errors = np.empty((end - begin, left.shape[1]))
        for k in range(begin, end):
            rounded[k] = np.clip(np.rint(left[k] / scale), -LARGEST, LARGEST)
            errors[k - begin] = (left[k] - rounded[k] * scale) / upper[k, k]
            left[k + 1 : end] -= np.outer(upper[k, k + 1 : end], errors[k - begin])
        left[end:] -= upper[begin:end, end:].T @ errors
    out = np.empty(weight.shape, np.int8)
    out[order] = rounded
    return out


def _moments(weight: Floats, x: Floats, input_scale: float | None) -> Doubles:
    rows = x.astype(np.float64)
    size = np.square(rows @ weight).sum(1)
    share = 1 / np.maximum(size, size.max() * _FLOOR)
    share /= share.sum()
    moments: Doubles = (rows * share[:, None]).T @ rows
    noise = (share @ np.square(np.abs(rows).max(1) / LARGEST) if input_scale is None else input_scale**2) / 12
    moments[np.diag_indices_from(moments)] += noise + DAMPING * moments.diagonal().mean()
    return moments
