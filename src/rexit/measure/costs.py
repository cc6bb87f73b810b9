"""What a slate costs, by where its candidates stop; and what deployed policies take when timed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rexit.measure.scorer import Scorer
from rexit.progress import Progress, silent
from rexit.slates import Slate


@dataclass(frozen=True)
class Costs:
    """Microseconds for a slate. Arrays are float64 [E]: what reaching exit k adds.

    base_us: retrieval and prompt assembly, paid by every slate. prefix_us: the prefix's layers up to k, paid once by a slate with
    a candidate that reaches it; less where some prefixes are cached. pass_us: paid by every pass over the slate's candidates,
    each holding at most `pass_candidates` of those left. candidate_us: paid by each candidate.
    """

    base_us: float
    prefix_us: NDArray[np.float64]
    pass_us: NDArray[np.float64]
    candidate_us: NDArray[np.float64]
    pass_candidates: int

    def mean(self, stops: NDArray[np.int64], offsets: NDArray[np.int64]) -> float:
        """Mean cost of a slate in microseconds: stops int64 [n] is each candidate's exit, offsets int64 [S + 1] delimits the
        slates."""
        return self.base_us + float(self.parts(stops, offsets).sum())

    def parts(self, stops: NDArray[np.int64], offsets: NDArray[np.int64]) -> NDArray[np.float64]:
        """What the mean slate pays for each exit's prefix, passes and candidates, in microseconds: float64 [3, E]. The rest of
        its cost is `base_us`."""
        slates, exits = len(offsets) - 1, len(self.prefix_us)
        slate = np.repeat(np.arange(slates), np.diff(offsets))
        stopped = np.bincount(slate * exits + stops, minlength=slates * exits).reshape(slates, exits)
        reached = stopped[:, ::-1].cumsum(1)[:, ::-1]
        passes = -(-reached // self.pass_candidates)
        counts = np.stack(((reached > 0).sum(0), passes.sum(0), reached.sum(0)))
        return np.asarray(counts / slates * np.stack((self.prefix_us, self.pass_us, self.candidate_us)))


def passes(tokens: Sequence[int], max_tokens: int) -> int:
    """How many passes candidates of these lengths take. The runtime's rule: each pass takes the next candidates as long as they
    fit, and at least one."""
    count, room = 0, 0
    for one in tokens:
        if count == 0 or one > room:
            count, room = count + 1, max_tokens
        room -= one
    return count


def latencies(
    session: Scorer,
    slates: Sequence[Slate],
    modes: Sequence[int | None],
    repeats: int = 3,
    progress: Progress = silent,
    *,
    cached: bool = False,
) -> tuple[NDArray[np.float64], list[NDArray[np.int64]]]:
    """Milliseconds per slate in each mode: an exit to force, or None for the deployed policy. cached: whether the cache holds the
    prefix, as deep as that mode needs it.

    Modes alternate inside one loop. Returns float64 [S, modes], each the median over `repeats`, and each slate's exits in
    the first mode.
    """
    session.warm_up()
    micros = np.zeros((repeats, len(slates), len(modes)))
    exits: list[NDArray[np.int64]] = []
    for r in range(repeats):
        for i, slate in enumerate(slates):
            progress("latency", r * len(slates) + i, repeats * len(slates))
            for m, force_exit in enumerate(modes):
                session.clear_cache()
                if cached:
                    session.score(slate.user, slate.items, as_of=slate.as_of, force_exit=force_exit)
                scores = session.score(slate.user, slate.items, as_of=slate.as_of, force_exit=force_exit)
                micros[r, i, m] = scores.stats.total_us
                if r == 0 and m == 0:
                    exits.append(np.asarray(scores.exit, np.int64))
    progress("latency", repeats * len(slates), repeats * len(slates))
    return np.median(micros, axis=0) / 1000.0, exits


def depth_name(layers: int) -> str:
    """What tables call a fixed depth."""
    return f"{layers} layer" if layers == 1 else f"{layers} layers"
