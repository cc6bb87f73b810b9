"""A head from hidden rows: logistic regression with a ridge.

1. Each of the H numbers is scaled to mean 0 and deviation 1 over the training candidates, so that one ridge suits all.
2. L-BFGS minimizes the mean cross-entropy to the targets plus ridge / 2 times the squared weights, from a strong ridge to weak
   ones, each from the one before.
3. A lower precision rounds rows, and a head with large weights on numbers that vary little would amplify that. So the loss is the
   expected one under noise of deviation ROUNDING on each number, to second order: its variance times at most 1 / 4, half of it
   for each squared weight of the row.
4. The scale becomes the weight of the head's norm, the weights become its projection: the format stores exactly the fit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

RIDGES = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003)
MAX_STEPS = 60
ROUNDING = 0.02
"""Standard deviation of the noise on each number of a row with root mean square 1. int8 on the CPU moved the log-odds of heads on
SmolLM2-135M as much as noise of 0.012 (layer 1) to 0.028 (layer 19)."""


@dataclass(frozen=True)
class FittedHead:
    """log-odds = (row * scale) @ weight + bias, with float32 [H] weight and scale."""

    scale: NDArray[np.float32]
    weight: NDArray[np.float32]
    bias: float

    def log_odds(self, rows: NDArray[np.floating]) -> NDArray[np.float32]:
        """float32 [n] from rows [n, H]."""
        return np.asarray(rows.astype(np.float32) @ (self.scale * self.weight) + np.float32(self.bias), np.float32)


class Regression:
    """Training rows [n, H] of one layer, standardized once for all targets and ridges."""

    def __init__(self, rows: NDArray[np.floating]) -> None:
        self._x = rows.astype(np.float32)
        self._mean = self._x.mean(0, dtype=np.float64).astype(np.float32)
        self._x -= self._mean
        deviation = np.sqrt(np.einsum("nh,nh->h", self._x, self._x, dtype=np.float64) / len(self._x))
        self._scale = np.where(deviation > 1e-6, 1 / np.maximum(deviation, 1e-6), 0).astype(np.float32)
        self._x *= self._scale

    def fit(self, target: NDArray[np.float32], ridge: float, start: FittedHead | None = None) -> FittedHead:
        """target: probability that each candidate is a yes, float32 [n]. start: the initial head; None: zeros."""
        x, n = self._x, len(self._x)
        penalty = ridge + ROUNDING**2 / 4 * self._scale.astype(np.float64) ** 2

        def value(at: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            weight, bias = at[:-1], at[-1]
            z = x @ weight.astype(np.float32) + np.float32(bias)
            residual = (expit(z) - target).astype(np.float32)
            loss = float(np.mean(np.logaddexp(0, z) - target * z, dtype=np.float64)) + float(penalty @ weight**2) / 2
            slope = (residual @ x).astype(np.float64) / n + penalty * weight
            return loss, np.r_[slope, residual.mean(dtype=np.float64)]

        share = float(np.clip(target.mean(), 1e-6, 1 - 1e-6))
        begin = np.r_[np.zeros(x.shape[1]), np.log(share / (1 - share))]
        if start is not None:
            begin = np.r_[start.weight, start.bias + float(self._mean @ (self._scale * start.weight))].astype(np.float64)
        optimum = minimize(value, begin, jac=True, method="L-BFGS-B", options={"maxiter": MAX_STEPS, "ftol": 1e-8, "gtol": 1e-6})
        weight = optimum.x[:-1].astype(np.float32)
        return FittedHead(self._scale, weight, float(optimum.x[-1] - self._mean.astype(np.float64) @ (self._scale * weight)))


def log_loss(z: NDArray[np.floating], liked: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Cross-entropy of each candidate, float64 [n], from log-odds [n]."""
    return np.asarray(np.logaddexp(0, np.where(liked, -z, z).astype(np.float64)))


def platt(z: NDArray[np.float32], liked: NDArray[np.bool_]) -> tuple[float, float]:
    """a and b of the log-odds a z + b that fit the labels best; a may be negative."""
    head = Regression(z[:, None]).fit(liked.astype(np.float32), 1e-6)
    return float(head.scale[0] * head.weight[0]), head.bias
