"""How good a policy is on a split: ranking, calibration, depth and cost."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rexit.bundle import Policy
from rexit.calibration.traces import Traces
from rexit.measure.costs import Costs
from rexit.ranking import auc, user_auc


@dataclass(frozen=True)
class Metrics:
    """auc: over all pairs, ranked by c where each one stopped. user_auc: mean over users with both labels (NaN if there are
    none). logloss: in nats. mean_layers: over candidates. cost_us: mean microseconds per slate, according to the cost model.
    """

    auc: float
    user_auc: float
    logloss: float
    mean_layers: float
    cost_us: float


def logloss(c: NDArray[np.float32], liked: NDArray[np.bool_]) -> float:
    """Mean negative log-likelihood in nats of calibrated log-odds c [n]."""
    c64 = c.astype(np.float64)
    return float(np.mean(np.logaddexp(0.0, c64) - c64 * liked))


def at_exit(c: NDArray[np.float32], stops: NDArray[np.int64]) -> NDArray[np.float32]:
    """Each candidate's c where it stopped: float32 [n] from [n, E]."""
    return np.take_along_axis(c, stops[:, None], axis=1)[:, 0]


def evaluate(
    traces: Traces, policy: Policy, depths: tuple[int, ...], costs: Costs, stops: NDArray[np.int64] | None = None
) -> Metrics:
    """A policy on a split; `stops` int64 [n] overrides where it stops (for a fixed depth). depths: of each exit, in layers."""
    stops = policy.stops(traces.log_odds, traces.offsets) if stops is None else stops
    c = at_exit(policy.calibrated(traces.log_odds), stops)
    return Metrics(
        auc(c, traces.liked),
        user_auc(c, traces.users, traces.liked),
        logloss(c, traces.liked),
        float(np.array(depths)[stops].mean()),
        costs.mean(stops, traces.offsets),
    )
