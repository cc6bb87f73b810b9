"""Traces with known properties: no model is involved."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rexit.calibration.traces import Traces
from rexit.upkeep.measure import Costs


def traces(users: int, per_user: int, noise: Sequence[float], seed: int = 0, slate: int = 10) -> Traces:
    """Each pair has a true log-odds t; the label is drawn from it; exit k sees t plus normal noise of size `noise[k]`.

    The noise is nested: each exit's is the next exit's plus more, as the heads of one model share what they do not know.
    """
    random = np.random.default_rng(seed)
    n = users * per_user
    truth = random.normal(0, 1.5, n)
    liked = random.random(n) < 1 / (1 + np.exp(-truth))
    log_odds = np.empty((n, len(noise)), np.float32)
    signal, before = truth, 0.0
    for k in reversed(range(len(noise))):
        signal = signal + random.normal(0, 1, n) * np.sqrt(max(noise[k] ** 2 - before**2, 0.0))
        before = noise[k]
        log_odds[:, k] = signal
    starts = [u * per_user + i for u in range(users) for i in range(0, per_user, slate)]
    return Traces(log_odds, liked, np.repeat(np.arange(users), per_user), np.array([*starts, n]), tuple(range(users)))


def even_costs(exits: int, once: float = 10.0, each: float = 10.0) -> Costs:
    """Every segment costs the same: `once` for a slate, of any size, and `each` for a candidate."""
    return Costs(5.0, np.full(exits, once), np.zeros(exits), np.full(exits, each), 10**6)
