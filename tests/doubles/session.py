"""A stand-in for the runtime's session, where no model is needed."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from builders.policies import full_depth
from rexit.format.bundle import Policy
from rexit.format.request import Request
from rexit.upkeep.measure import Costs

PREFIX_TOKENS, CANDIDATE_TOKENS = 30, 4
"""Lengths of every prompt of FakeSession."""


class FakeSession:
    """Stands in for `rexit.runtime.Session`: log-odds from a seeded table, times from a cost model.

    `truth(user, item)` gives the true log-odds; exit k adds `noise[k]` times a number fixed for (user, item, k).
    """

    def __init__(self, exits: int, costs: Costs, truth: Any, noise: Sequence[float], policy: Policy | None = None) -> None:
        self.exits, self.costs, self.truth, self.noise, self.policy = exits, costs, truth, noise, policy
        self.info = SimpleNamespace(rounding=1e-4)
        self.cold = True
        self.closed = False

    def trace(self, request: Request) -> NDArray[np.float32]:
        user, items = request.user, tuple(request.items or ())
        rows = []
        for item in items:
            random = np.random.default_rng(zlib.crc32(repr((user, item)).encode()))
            rows.append(
                [self.truth(user, item) + s * x for s, x in zip(self.noise, random.normal(0, 1, self.exits), strict=True)]
            )
        return np.array(rows, np.float32)

    def score(self, request: Request, *, force_exit: int | None = None) -> Any:
        trace = self.trace(request)
        if force_exit is not None:
            stops = np.full(len(trace), force_exit)
        else:
            stops = (self.policy or full_depth(self.exits, "")).stops(trace, np.array([0, len(trace)]))
        assert self.cold, "a timing that meets a cached prefix"
        self.cold = False
        once = float(self.costs.prefix_us[: stops.max() + 1].sum())
        left = (stops[:, None] >= np.arange(self.exits)).sum(0)
        each = float(left @ self.costs.candidate_us + -(-left // self.costs.pass_candidates) @ self.costs.pass_us)
        stats = SimpleNamespace(
            retrieval_us=self.costs.base_us,
            prefix_us=once,
            slate_us=each,
            total_us=self.costs.base_us + once + each,
            prefix_tokens=PREFIX_TOKENS,
            candidate_tokens=CANDIDATE_TOKENS * len(trace),
        )
        return SimpleNamespace(stats=stats, exit=stops)

    def prompt(self, request: Request) -> tuple[NDArray[np.int32], list[NDArray[np.int32]]]:
        return np.zeros(PREFIX_TOKENS, np.int32), [np.zeros(CANDIDATE_TOKENS, np.int32) for _ in request.items or ()]

    def warm_up(self) -> None:
        pass

    def clear_cache(self) -> None:
        self.cold = True

    def close(self) -> None:
        self.closed = True
