"""The utility, which makes one log-odds of those of several objectives, such as click and like.

The runtime computes the same, to the bit (runtime/src/session/slate/utility.cpp; docs/format/policy.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

MAX_WEIGHT = 1e9
"""Largest absolute weight of an objective."""
MAX_LOG_ODDS = 700.0
"""c is limited to this before it becomes a probability: exp(-700) is far from underflow."""

Maps = Sequence[Sequence[tuple[float, float]]]
"""By exit, then by objective: a and b of c = a z + b."""


def weights_problem(utility: Mapping[str, float]) -> str | None:
    """Why no utility can have these weights, by objective; None if one can."""
    for name, weight in utility.items():
        if not abs(weight) <= MAX_WEIGHT:
            return f"utility {name}: is {weight:g}, expected {-MAX_WEIGHT:g} to {MAX_WEIGHT:g}"
    if not any(np.float32(weight) for weight in utility.values()):
        return "utility: all weights are 0, expected another one"
    return None


def utility_log_odds(
    weights: Sequence[float], maps: Maps, log_odds: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Returns the utility's log-odds at each exit, float32 [n, E], and the objectives' probabilities, float32 [n, E, K].

    With lo the sum of the weights below 0 and hi of those above, u = (sum of weights times probabilities - lo) / (hi - lo), and
    the log-odds are log(u / (1 - u)). Both u and 1 - u are sums of terms of one sign, so nothing cancels.

    Args:
        weights: [K], not all 0.
        maps: [E][K].
        log_odds: Raw, float32 [n, E, K].
    """
    z = np.asarray(log_odds, np.float32)
    a, b = (np.array([[pair[i] for pair in of_exit] for of_exit in maps], np.float32) for i in (0, 1))
    with np.errstate(over="ignore"):
        c = np.clip(a * z + b, np.float32(-MAX_LOG_ODDS), np.float32(MAX_LOG_ODDS))
    small = _each(math.exp, -np.abs(c).astype(np.float64))
    likely, unlikely = 1.0 / (1.0 + small), small / (1.0 + small)
    yes, no = np.where(c >= 0, likely, unlikely), np.where(c >= 0, unlikely, likely)
    w = np.array(weights, np.float32).astype(np.float64)
    w = w / np.abs(w).max()
    good, bad = np.zeros(z.shape[:2]), np.zeros(z.shape[:2])
    for k, weight in enumerate(w.tolist()):  # one after the other, as the runtime adds them
        good += weight * yes[..., k] if weight >= 0 else -weight * no[..., k]
        bad += weight * no[..., k] if weight >= 0 else -weight * yes[..., k]
    return _each(math.log, good / bad).astype(np.float32), yes.astype(np.float32)


def _each(function: Callable[[float], float], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The C library's function of each value: NumPy's own differ from it in the last bit."""
    return np.fromiter(map(function, values.ravel().tolist()), np.float64, values.size).reshape(values.shape)
