"""What each segment costs on one machine, as a function of tokens: measured and used by `rexit calibrate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from rexit.bundle.typed import typed
from rexit.errors import BundleError
from rexit.measure.costs import Costs, passes
from rexit.measure.machine import Conditions
from rexit.progress import Progress, silent
from rexit.slates import AnySlate

if TYPE_CHECKING:
    from rexit.runtime import Session

MAX_FIT_ERROR = 0.5
"""No policy is chosen by a cost model with a larger `fit_error`."""

Microseconds = Annotated[float, msgspec.Meta(ge=0)]


@dataclass(frozen=True)
class SegmentCost:
    """Microseconds of what an exit adds: `prefix_us + prefix_token_us * P` to fill a prefix of P tokens, `pass_us +
    candidate_us * N + candidate_token_us * T` for a pass over N candidates with T tokens behind it. None is negative.

    `candidate_us` is the look-up's part: exit zero's numbers, and at the first segment behind it the prompts' assembly.
    """

    prefix_us: Microseconds
    prefix_token_us: Microseconds
    pass_us: Microseconds
    candidate_token_us: Microseconds
    candidate_us: Microseconds = 0.0


class _Costs(msgspec.Struct, frozen=True):
    """The costs in JSON, next to the conditions."""

    base_us: Microseconds
    segments: tuple[SegmentCost, ...]
    fit_error: float


@dataclass(frozen=True)
class CostProfile:
    """What each segment costs, valid only under its conditions.

    Attributes:
        conditions: What it was measured under.
        base_us: Microseconds of a slate's retrieval, and of its prompts' assembly without exit zero.
        segments: The costs of exit zero, if there is one, and of the segments from the first to the last.
        fit_error: Median relative difference between the whole model's predicted and measured time.
    """

    conditions: Conditions
    base_us: float
    segments: tuple[SegmentCost, ...]
    fit_error: float

    @property
    def is_unreliable(self) -> bool:
        """Whether the error is too large to choose a policy by."""
        return not self.fit_error <= MAX_FIT_ERROR

    def costs(self, prefix_tokens: float, candidate_tokens: float, max_tokens: int) -> Costs:
        """Returns the costs of a slate.

        Args:
            prefix_tokens, candidate_tokens: Mean tokens of a prefix and of a single candidate.
            max_tokens: The most tokens of a pass.
        """
        return Costs(
            self.base_us,
            np.array([s.prefix_us + s.prefix_token_us * prefix_tokens for s in self.segments]),
            np.array([s.pass_us for s in self.segments]),
            np.array([s.candidate_us + s.candidate_token_us * candidate_tokens for s in self.segments]),
            max(1, int(max_tokens / candidate_tokens)),
        )

    @classmethod
    def of_json(cls, value: Any, path: Path, exits: int) -> CostProfile:
        """The profile that `to_json` wrote, read from the file `path`. Raises BundleError for anything else."""
        conditions, costs = typed(value, Conditions, str(path)), typed(value, _Costs, str(path))
        if len(costs.segments) != exits:
            raise BundleError(f"{path}: segments: has {len(costs.segments)}, expected {exits}")
        return cls(conditions, costs.base_us, costs.segments, costs.fit_error)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, as `of_json` reads them."""
        return {
            **asdict(self.conditions),
            "base_us": self.base_us,
            "fit_error": self.fit_error,
            "segments": [asdict(segment) for segment in self.segments],
        }


def measure_costs(
    session: Session,
    slates: Sequence[AnySlate],
    depths: Sequence[int],
    max_tokens: int,
    conditions: Conditions,
    *,
    repeats: int = 3,
    progress: Progress = silent,
) -> CostProfile:
    """Times forced exits on slates and fits each segment's costs.

    1. Each slate is scored whole, as its first quarter and as its first candidate, at every forced exit, with the cached prefix
       cleared before each call. Exits alternate inside one loop, so that a slow moment of the machine affects all of them; the
       median over `repeats` counts.
    2. What exit k adds to the prefix's and to the slate's time is fitted by non-negative least squares: a prefix is
       filled once, a slate takes as many passes as `max_tokens` requires. If all prefixes have the same length, the split of
       their cost between the two is arbitrary, but the sum is right.
    3. Behind exit zero, the look-up's time is fitted likewise: what the slate and what each candidate costs there, and what
       prompts add for those who go on.

    Args:
        session: A session of the deployed variant.
        slates: The slates to time.
        depths: The layers of the variant's exits; 0: exit zero.
        max_tokens: The most tokens of a pass.
        conditions: What the times are valid for.
        repeats: Repetitions of each timing; the median counts.
    """
    session.warm_up()
    exits, zero = len(depths), depths[0] == 0
    cases = [(s, n) for s in slates for n in sorted({1, max(1, len(s.items) // 4), len(s.items)})]
    micros, tokens = np.zeros((repeats, len(cases), exits, 3)), np.zeros((len(cases), 2))
    for r in range(repeats):
        for i, (slate, n) in enumerate(cases):
            progress("costs", r * len(cases) + i, repeats * len(cases))
            for k in range(exits):
                session.clear_cache()
                stats = session.score(slate.first(n).request, force_exit=k).stats
                micros[r, i, k] = stats.retrieval_us, stats.prefix_us, stats.slate_us
            tokens[i] = stats.prefix_tokens, stats.candidate_tokens
    progress("costs", repeats * len(cases), repeats * len(cases))
    once, pass_counts = np.ones(len(cases)), np.array([_passes(session, *case, max_tokens) for case in cases], np.float64)
    sizes = np.array([n for _, n in cases], np.float64)
    median = np.median(micros, axis=0)
    added = np.diff(median, axis=1, prepend=0.0)
    segments = [
        SegmentCost(*_fit(once, tokens[:, 0], added[:, k, 1]), *_fit(pass_counts, tokens[:, 1], added[:, k, 2]))
        for k in range(exits)
    ]
    base = float(median[:, :, 0].mean())
    if zero:
        base, of_numbers = _fit(once, sizes, added[:, 0, 0])
        of_prompt, of_prompts = _fit(once, sizes, median[:, 1:, 0].mean(1) - median[:, 0, 0])
        segments[0] = SegmentCost(0.0, 0.0, 0.0, 0.0, of_numbers)
        segments[1] = replace(segments[1], prefix_us=segments[1].prefix_us + of_prompt, candidate_us=of_prompts)
    predicted = base + sum(
        s.prefix_us
        + s.prefix_token_us * tokens[:, 0]
        + s.pass_us * pass_counts
        + s.candidate_us * sizes
        + s.candidate_token_us * tokens[:, 1]
        for s in segments
    )
    whole = median[:, -1].sum(1)
    error = float(np.median(np.abs(predicted - whole) / whole))
    return CostProfile(conditions, base, tuple(segments), error)


def _fit(times: NDArray[np.float64], tokens: NDArray[np.float64], micros: NDArray[np.float64]) -> tuple[float, float]:
    """The `per_time` and `per_token`, 0 or more, with which `times * per_time + tokens * per_token` is closest to micros."""
    from scipy.optimize import nnls  # which `rexit bench` must not need

    per_time, per_token = nnls(np.stack([times, tokens], axis=1), micros)[0].tolist()
    return per_time, per_token


def _passes(session: Session, slate: AnySlate, count: int, max_tokens: int) -> int:
    _, candidates = session.prompt(slate.first(count).request)
    return passes(list(map(len, candidates)), max_tokens)


def mean_tokens(session: Session, slates: Sequence[AnySlate], depths: Sequence[int]) -> tuple[float, float]:
    """Returns the mean tokens of a slate's prefix, and of a single candidate. depths: as for `measure_costs`."""
    first = int(depths[0] == 0)  # exit zero reads no token
    prefix = candidates = 0
    for slate in slates:
        session.clear_cache()
        stats = session.score(slate.request, force_exit=first).stats
        prefix += stats.prefix_tokens
        candidates += stats.candidate_tokens
    return prefix / len(slates), candidates / sum(len(slate.items) for slate in slates)
