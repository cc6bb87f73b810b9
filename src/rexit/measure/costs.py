"""What a slate costs, by where its candidates stop; and what deployed policies take when timed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rexit.progress import Progress, silent
from rexit.slates import AnySlate

if TYPE_CHECKING:
    from rexit.runtime import Session


@dataclass(frozen=True)
class Costs:
    """Microseconds for a slate. Arrays are float64 [E]: what reaching exit k adds.

    Attributes:
        base_us: Retrieval and prompt assembly, paid by every slate.
        prefix_us: The prefix's layers up to k, paid once by a slate with a candidate that reaches it.
        pass_us: Cost of every pass over the slate's candidates.
        candidate_us: Cost of each candidate.
        pass_candidates: Candidates that fit into a pass.
    """

    base_us: float
    prefix_us: NDArray[np.float64]
    pass_us: NDArray[np.float64]
    candidate_us: NDArray[np.float64]
    pass_candidates: int

    def mean(self, stops: NDArray[np.int64], offsets: NDArray[np.int64]) -> float:
        """Returns the mean cost of a slate in microseconds.

        Args:
            stops: Each candidate's exit, int64 [n].
            offsets: Where each slate begins, and n: int64 [S + 1].
        """
        return self.base_us + float(self.parts(stops, offsets).sum())

    def parts(self, stops: NDArray[np.int64], offsets: NDArray[np.int64]) -> NDArray[np.float64]:
        """Returns what the mean slate pays for each exit's prefix, passes and candidates, in microseconds: float64 [3, E]. The
        rest of its cost is `base_us`. Arguments as for `mean`."""
        counts = self._counts(stops, offsets)
        means = np.stack([count.sum(0) for count in counts]) / len(counts[0])
        return np.asarray(means * np.stack((self.prefix_us, self.pass_us, self.candidate_us)))

    def _counts(self, stops: NDArray[np.int64], offsets: NDArray[np.int64]) -> tuple[NDArray[Any], ...]:
        """How many prefixes (one at most), passes and candidates reach each exit, by slate: three of [S, E]."""
        slates, exits = len(offsets) - 1, len(self.prefix_us)
        slate = np.repeat(np.arange(slates), np.diff(offsets))
        stopped = np.bincount(slate * exits + stops, minlength=slates * exits).reshape(slates, exits)
        reached = stopped[:, ::-1].cumsum(1)[:, ::-1]
        passes = -(-reached // self.pass_candidates)
        return reached > 0, passes, reached


def passes(tokens: Sequence[int], max_tokens: int) -> int:
    """Returns how many passes candidates take: each takes the next candidates as long as they fit, and at least one.

    Args:
        tokens: Tokens of each candidate.
        max_tokens: The most tokens of a pass.
    """
    count, room = 0, 0
    for length in tokens:
        if count == 0 or length > room:
            count, room = count + 1, max_tokens
        room -= length
    return count


def latencies(
    session: Session,
    slates: Sequence[AnySlate],
    modes: Sequence[int | None],
    repeats: int = 3,
    progress: Progress = silent,
) -> tuple[NDArray[np.float64], list[NDArray[np.int64]]]:
    """Times slates in several modes, which alternate inside one loop.

    Args:
        session: A session of the deployed variant.
        slates: The slates, S of them.
        modes: Exits to force; None: the deployed policy.
        repeats: Repetitions of each timing; the median counts.

    Returns:
        Milliseconds per slate, float64 [S, modes], and each slate's exits in the first mode.
    """
    session.warm_up()
    micros = np.zeros((repeats, len(slates), len(modes)))
    exits: list[NDArray[np.int64]] = []
    for r in range(repeats):
        for i, slate in enumerate(slates):
            progress("latency", r * len(slates) + i, repeats * len(slates))
            for m, force_exit in enumerate(modes):
                session.clear_cache()
                scores = session.score(slate.request, force_exit=force_exit)
                micros[r, i, m] = scores.stats.total_us
                if r == 0 and m == 0:
                    exits.append(np.asarray(scores.exit, np.int64))
    progress("latency", repeats * len(slates), repeats * len(slates))
    return np.median(micros, axis=0) / 1000.0, exits


def exit_name(layers: int) -> str:
    """Returns what texts call the exit at a depth."""
    return f"after {depth_name(layers)}" if layers else depth_name(0)


def depth_name(layers: int) -> str:
    """Returns what tables call a fixed depth."""
    if layers == 0:
        return "exit zero"
    return f"{layers} layer" if layers == 1 else f"{layers} layers"
