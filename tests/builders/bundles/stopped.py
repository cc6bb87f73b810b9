"""Random slates and where the book stops them, for the C++ tests: `python -m builders.bundles.stopped FILE`, in tests/.

A row for each case: `patience`, `quorum`, `k`, `ordered`, the number of `candidates`; `rise` and
`fall` [EXITS - 1]; `keep` [EXITS], how many go on after each exit, 0 being all; `rules` [EXITS, 4] of a, b, upper and lower;
the weights of `earlier` heads, 0 being none. Then a row for each candidate of each case: `log_odds` [EXITS], `exit` and its `c`.
k 0: no such rule. Maps are 1 and 0 in half of the cases, and read earlier heads in the others.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from oracles.by_the_book import by_the_book
from rexit.format.bundle import ExitPolicy, Policy, TopK

EXITS, CASES = 3, 600


def cases() -> Iterator[tuple[Policy, Any]]:
    """Policies and log-odds float32 [n, EXITS]: ties and equal bounds in two cases of three."""
    random = np.random.default_rng(0)
    for case in range(CASES):
        step = (0.0, 0.25, 1.0)[case % 3]

        def even(values: Any, step: float = step) -> Any:
            return np.float32(np.round(values / step) * step if step else values)

        n = int(random.integers(1, 41))
        z = even(random.normal(0, 2, (n, EXITS)))
        rise, fall = even(random.uniform(0, 1.5, (2, EXITS - 1)) * random.integers(0, 2, (2, EXITS - 1))).tolist()
        limits = even(random.uniform(1, 6, (2, EXITS)))
        limits[random.random(limits.shape) < 0.3] = np.inf
        maps: Any = [(1.0, 0.0)] * EXITS if case % 2 == 0 else random.normal(0, 1, (EXITS, 2))
        weights: list[Any] = [(0.0,) * k if case % 2 == 0 else random.normal(0, 1, k) for k in range(EXITS)]
        keep = [int(random.integers(1, 12)) if random.random() < 0.3 else 0 for _ in range(EXITS - 1)] + [0]
        top_k = TopK(int(random.integers(1, 12)), bool(random.integers(2)), tuple(rise), tuple(fall))
        policy = Policy(
            tuple(
                ExitPolicy(
                    float(np.float32(a)),
                    float(np.float32(b)),
                    float(u),
                    float(w),
                    tuple(np.asarray(earlier, np.float32).tolist()),
                    keep=most,
                )
                for (a, b), (u, w), earlier, most in zip(maps, limits.T, weights, keep, strict=True)
            ),
            int(random.integers(1, 3)),
            "",
            int(random.choice([0, 1, 3, 8])),
            top_k if random.random() < 0.8 else None,
        )
        yield policy, z


def columns(policy: Policy, z: Any) -> dict[str, Any]:
    """One case, as the module says."""
    rule = policy.top_k
    stops, c = by_the_book(policy, z)
    no_moves = (0.0,) * (EXITS - 1)
    return {
        "patience": np.array([policy.patience], np.int32),
        "quorum": np.array([policy.quorum], np.int32),
        "k": np.array([rule.k if rule else 0], np.int32),
        "ordered": np.array([bool(rule and rule.ordered)], np.int32),
        "candidates": np.array([len(z)], np.int32),
        "rise": np.array([rule.rise if rule else no_moves], np.float32),
        "fall": np.array([rule.fall if rule else no_moves], np.float32),
        "keep": np.array([policy.keep], np.int32),
        "rules": np.array([[(e.a, e.b, e.upper, e.lower) for e in policy.exits]], np.float32),
        "earlier": np.array([[weight for e in policy.exits for weight in e.earlier]], np.float32),
        "log_odds": z,
        "exit": np.array(stops, np.int32),
        "c": c[np.arange(len(z)), stops],
    }


if __name__ == "__main__":
    tables = [columns(*case) for case in cases()]
    save_file({name: np.concatenate([table[name] for table in tables]) for name in tables[0]}, sys.argv[1])
