"""How often a watched service has a false alarm, and how soon a planted shift is found: tables for docs/notes/depth/watch.md.

python benchmarks/ranking/watch_delays.py
"""

from __future__ import annotations

import copy

import numpy as np
from numpy.typing import NDArray

from rexit.audit import Capital

LIMIT, CALM = 0.03, 0.02
SHIFTS = (0.12, 0.06, 0.04)
SERVICES, LONGEST = 200, 15_000
FALSE_SERVICES, FALSE_USERS = 400, 100_000


def draw(kind: str, random: np.random.Generator, mean: float, services: int) -> NDArray[np.float64]:
    """Losses of one user of each service: tenths, as of a top-10 overlap, or all or nothing."""
    if kind == "tenths":
        return np.asarray(random.binomial(10, mean, services) / 10)
    return (random.random(services) < mean).astype(np.float64)


def print_delays(kind: str, before: int) -> None:
    """Prints median and 90 % quantile of the users from the shift to the alarm."""
    random, calm = np.random.default_rng(1), Capital(LIMIT, streams=SERVICES)
    for _ in range(before):
        calm.add(draw(kind, random, CALM, SERVICES))
    early = calm.alarms_at > 0
    for mean in SHIFTS:
        test, random, users = copy.deepcopy(calm), np.random.default_rng(2), 0
        while (test.alarms_at > 0).mean() < 0.93 and users < LONGEST:
            test.add(draw(kind, random, mean, SERVICES))
            users += 1
        delays = np.where(test.alarms_at > 0, test.alarms_at - before, np.inf)[~early]
        median, late = np.quantile(delays, (0.5, 0.9), method="nearest")
        print(
            f"{kind}: after {before} users to {mean}: {early.sum()} early, median {median:.0f}, 90 % within {late:.0f}",
            flush=True,
        )


def print_false_alarms(kind: str) -> None:
    """Prints how many services whose mean is the limit itself have had an alarm."""
    random, test = np.random.default_rng(0), Capital(LIMIT, streams=FALSE_SERVICES)
    for users in range(1, FALSE_USERS + 1):
        test.add(draw(kind, random, LIMIT, FALSE_SERVICES))
        if users in (1000, 10_000, FALSE_USERS):
            print(f"{kind}: {np.count_nonzero(test.alarms_at)} of {FALSE_SERVICES} within {users} users", flush=True)


if __name__ == "__main__":
    for kind in ("tenths", "all or nothing"):
        for before in (0, 1000, 10_000):
            print_delays(kind, before)
        print_false_alarms(kind)
