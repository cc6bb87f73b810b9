"""The fixed scale of a linear layer's input: how many of the largest numbers it cuts off.

    error(m) = sum_{|x| > m} (|x| - m)^2  +  #{|x| <= m} (m / 127)^2 / 12

m has the least mean square error on sampled rows, with rounding as uniform noise. The largest magnitude, percentiles and the
entropy of TensorRT's calibrator are compared with it in docs/notes/precision/tensorrt.md: its log-odds were the closest to
float32's.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rexit.exporter.graph.linear.round_weights import LARGEST

_BINS = 8192

Floats = NDArray[np.float32]


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
