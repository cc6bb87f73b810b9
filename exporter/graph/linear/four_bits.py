"""Rounds blocks of weights to the integers -8 … 7, with a scale per block."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


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
