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

from rexit.bundle.objectives import utility_log_odds

CASES, CANDIDATES = 300, 40


def cases() -> Iterator[tuple[Any, Any, Any]]:
    """Weights [K], maps [K, 2] and log-odds [CANDIDATES, K], float32: small, ordinary, and far beyond saturation."""
    random = np.random.default_rng(1)
    for case in range(CASES):
        count = int(random.integers(2, 17))
        weights = np.float32(random.normal(0, 1, count) * 10.0 ** random.integers(-9, 9, count))
        weights[random.random(count) < 0.2] = 0
        weights[random.integers(count)] = np.float32(random.choice([-1, 1]) * 1.5)
        maps = np.float32(np.stack([random.uniform(0.1, 3, count), random.normal(0, 1, count)], 1))
        z = np.float32(random.normal(0, (0.5, 5, 400)[case % 3], (CANDIDATES, count)))
        z[:2] = np.float32(3e38) * np.float32([[1], [-1]])
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
