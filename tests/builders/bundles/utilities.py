"""Random utilities and what Python makes of them, for the C++ tests: `python -m builders.bundles.utilities FILE`, in tests/.

All numbers have 32 bits, integers or floats. First the number of cases. Each case: objectives and candidates; the weights; a and
b of each objective; each candidate's log-odds; then, as expected, each candidate's log-odds of the utility and probabilities.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rexit.bundle.policy import utility_log_odds

CASES, CANDIDATES = 300, 40


def cases() -> Iterator[tuple[Any, Any, Any]]:
    """Weights [K], maps [K, 2] and log-odds [CANDIDATES, K], float32: small, ordinary, and far beyond saturation."""
    random = np.random.default_rng(1)
    for case in range(CASES):
        count = int(random.integers(2, 17))
        weights = (random.normal(0, 1, count) * 10.0 ** random.integers(-9, 9, count)).astype(np.float32)
        weights[random.random(count) < 0.2] = 0
        weights[random.integers(count)] = random.choice([-1.5, 1.5])
        maps = np.stack([random.uniform(0.1, 3, count), random.normal(0, 1, count)], 1).astype(np.float32)
        z = random.normal(0, (0.5, 5, 400)[case % 3], (CANDIDATES, count)).astype(np.float32)
        z[0], z[1] = 3e38, -3e38
        yield weights, maps, z


def numbers(weights: Any, maps: Any, z: Any) -> Iterator[Any]:
    """One case, as the module says."""
    yield np.array([len(weights), len(z)], np.int32)
    yield from (weights, maps, z)
    log_odds, probabilities = utility_log_odds(weights.tolist(), [[*map(tuple, maps.tolist())]], z[:, None])
    yield from (log_odds[:, 0], probabilities[:, 0])


if __name__ == "__main__":
    words = [np.int32(CASES), *(part for case in cases() for part in numbers(*case))]
    Path(sys.argv[1]).write_bytes(b"".join(word.tobytes() for word in words))
