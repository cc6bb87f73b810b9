"""Where a slate's candidates stop: docs/format/policy.md followed word by word, one candidate at a time."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from rexit.format.bundle import Policy


def by_the_book(policy: Policy, z: NDArray[np.float32]) -> tuple[list[int], NDArray[np.float32]]:
    """One slate's exits, and c at all exits, float32 [n, exits]. z: raw log-odds, likewise."""
    n, exits = z.shape
    c = np.empty_like(z)
    for i, e in np.ndindex(z.shape):
        rule = policy.exits[e]
        c[i, e] = np.float32(rule.a) * z[i, e] + np.float32(rule.b)
        for j, weight in enumerate(rule.earlier):
            c[i, e] += np.float32(weight) * z[i, j]

    def confident(i: int, e: int) -> bool:
        rule, last = policy.exits[e], c[i, max(0, e + 1 - policy.patience) : e + 1] >= 0
        over = rule.upper != math.inf and c[i, e] >= np.float32(rule.upper)
        under = rule.lower != math.inf and c[i, e] <= -np.float32(rule.lower)
        return (over or under) and len(last) == policy.patience and last.all() == last.any()

    stopped: dict[int, int] = {}
    for e in range(exits - 1):
        stopped |= {i: e for i in range(n) if i not in stopped and confident(i, e)}
        if (top_k := policy.top_k) is not None:
            at = [stopped.get(i, e) for i in range(n)]
            low = [c[i, at[i]] - np.float32(top_k.fall[at[i]]) for i in range(n)]
            high = [c[i, at[i]] + np.float32(top_k.rise[at[i]]) for i in range(n)]
            for i in range(n):
                above = sum(high[j] >= low[i] for j in range(n) if j != i)
                surely = sum(low[j] > high[i] for j in range(n) if j != i)
                inside = above < top_k.k and (not top_k.ordered or above == surely)
                if i not in stopped and (surely >= top_k.k or inside):
                    stopped[i] = e
        left = [i for i in range(n) if i not in stopped]
        larger = {i: sum(c[j, e] > c[i, e] for j in left) for i in left}
        stopped |= {i: e for i in left if policy.exits[e].keep and larger[i] >= policy.exits[e].keep}
        if n - len(stopped) <= policy.quorum:
            stopped |= {i: e for i in range(n) if i not in stopped}
    return [stopped.get(i, exits - 1) for i in range(n)], c
