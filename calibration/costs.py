"""What a slate costs where its candidates stop; and what deployed policies really take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rexit.calibration.slates import Slate
from rexit.calibration.traces import Progress, Scorer, silent


@dataclass(frozen=True)
class Costs:
    """Microseconds, for a slate whose prefix is not cached.

    base_us: retrieval and prompt assembly, paid by every slate. segment_us float64 [E]: paid once by a slate that has a
    candidate reaching exit k (the prefix's layers up to k, and the call itself). candidate_us float64 [E]: paid by each
    candidate reaching exit k.
    """

    base_us: float
    segment_us: NDArray[np.float64]
    candidate_us: NDArray[np.float64]

    def mean(self, stops: NDArray[np.int64], offsets: NDArray[np.int64]) -> float:
        """Mean cost of a slate in microseconds: stops int64 [n] is each candidate's exit, offsets int64 [S+1] the slates."""
        deepest = np.maximum.reduceat(stops, offsets[:-1])
        reached = np.bincount(deepest, minlength=len(self.segment_us))
        stopped = np.bincount(stops, minlength=len(self.candidate_us))
        total = reached @ np.cumsum(self.segment_us) + stopped @ np.cumsum(self.candidate_us)
        return self.base_us + float(total) / (len(offsets) - 1)


def latencies(
    session: Scorer, slates: Sequence[Slate], modes: Sequence[int | None], repeats: int = 3, progress: Progress = silent
) -> tuple[NDArray[np.float64], list[NDArray[np.int64]]]:
    """Milliseconds per slate under each mode: an exit to force, or None for the deployed policy. Prefix not cached.

    Modes alternate inside one loop. Returns float64 [S, modes], each the median over `repeats`, and each slate's exits under
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
                scores = session.score(slate.user, slate.items, as_of=slate.as_of, force_exit=force_exit)
                micros[r, i, m] = scores.stats.total_us
                if r == 0 and m == 0:
                    exits.append(np.asarray(scores.exit, np.int64))
    progress("latency", repeats * len(slates), repeats * len(slates))
    return np.median(micros, axis=0) / 1000.0, exits
