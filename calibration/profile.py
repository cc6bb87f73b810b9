"""What each segment costs on one machine, as a function of tokens: measured by `rexit bench`, used by `rexit calibrate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from rexit import __version__
from rexit.bundle.files import SCHEMA, read_json, write_json
from rexit.calibration.costs import Costs
from rexit.calibration.machine import machine
from rexit.calibration.slates import Slate
from rexit.calibration.traces import Progress, Scorer, silent
from rexit.errors import BundleError


@dataclass(frozen=True)
class SegmentCost:
    """Microseconds of one segment: `prefix_us + prefix_token_us * P` to fill a prefix of P tokens, `slate_us +
    candidate_token_us * T` for T tokens of candidates behind it. None is negative."""

    prefix_us: float
    prefix_token_us: float
    slate_us: float
    candidate_token_us: float


@dataclass(frozen=True)
class Profile:
    """Bound to the variant it was measured with. base_us: retrieval and prompt assembly of a slate. fit_error: median relative
    difference of the whole model's time as predicted and as measured. machine: what it was measured on; threads: the backend's,
    0 for one per core."""

    variant_sha256: str
    base_us: float
    segments: tuple[SegmentCost, ...]
    fit_error: float
    threads: int
    machine: dict[str, Any]

    def costs(self, prefix_tokens: float, candidate_tokens: float) -> Costs:
        """For slates whose prefixes and single candidates have so many tokens on average."""
        once = [s.slate_us + s.prefix_us + s.prefix_token_us * prefix_tokens for s in self.segments]
        each = [s.candidate_token_us * candidate_tokens for s in self.segments]
        return Costs(self.base_us, np.array(once), np.array(each))

    @classmethod
    def read(cls, path: Path, exits: int, variant_sha256: str) -> Profile:
        """Raises BundleError, also when the profile was measured with another variant."""
        value = read_json(path)
        try:
            profile = cls(
                str(value["variant_sha256"]),
                float(value["base_us"]),
                tuple(SegmentCost(**{name: float(number) for name, number in row.items()}) for row in value["segments"]),
                float(value["fit_error"]),
                int(value["threads"]),
                dict(value["machine"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            raise BundleError(f"{path}: not a profile: {exc!r}") from exc
        if profile.variant_sha256 != variant_sha256:
            raise BundleError(
                f"{path}: measured with variant {profile.variant_sha256[:12]}…, this one is {variant_sha256[:12]}…: "
                "measure again with `rexit bench --profile`"
            )
        numbers = [profile.base_us, *(x for segment in profile.segments for x in asdict(segment).values())]
        if len(profile.segments) != exits or not all(np.isfinite(x) and x >= 0 for x in numbers):
            raise BundleError(f"{path}: needs {exits} segments with costs of 0 or more")
        return profile

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"segments": [asdict(segment) for segment in self.segments]}

    def write(self, path: Path) -> None:
        """Whole or not at all. Raises InputError where the place cannot be written."""
        write_json(path, {"schema": SCHEMA, "requires": [], "producer": f"rexit {__version__}", **self.to_json()})


def measure(
    session: Scorer,
    slates: Sequence[Slate],
    exits: int,
    variant_sha256: str,
    *,
    threads: int = 0,
    repeats: int = 3,
    progress: Progress = silent,
) -> Profile:
    """Times forced exits on slates and fits each segment's costs.

    1. Each slate is scored whole, as its first quarter and as its first candidate, at every forced exit, with the cached prefix
       forgotten before each call. Exits alternate inside one loop, so that a slow moment of the machine touches all of them; the
       median over `repeats` counts.
    2. What exit k adds to the prefix's and to the slate's time is fitted by non-negative least squares, `once + tokens * each`.
       Where all prefixes have one length, how their cost divides between the two is arbitrary, and their sum is right.
    """
    session.warm_up()
    cases = [(s, n) for s in slates for n in sorted({1, max(1, len(s.items) // 4), len(s.items)})]
    micros, tokens = np.zeros((repeats, len(cases), exits, 3)), np.zeros((len(cases), 2))
    for r in range(repeats):
        for i, (slate, n) in enumerate(cases):
            progress("costs", r * len(cases) + i, repeats * len(cases))
            for k in range(exits):
                session.clear_cache()
                stats = session.score(slate.user, slate.items[:n], as_of=slate.as_of, force_exit=k).stats
                micros[r, i, k] = stats.retrieval_us, stats.prefix_us, stats.slate_us
                tokens[i] = stats.prefix_tokens, stats.candidate_tokens
    progress("costs", repeats * len(cases), repeats * len(cases))
    median = np.median(micros, axis=0)
    added = np.diff(median, axis=1, prepend=0.0)
    segments = tuple(
        SegmentCost(*_line(tokens[:, 0], added[:, k, 1]), *_line(tokens[:, 1], added[:, k, 2])) for k in range(exits)
    )
    base = float(median[:, :, 0].mean())
    predicted = base + sum(
        s.prefix_us + s.prefix_token_us * tokens[:, 0] + s.slate_us + s.candidate_token_us * tokens[:, 1] for s in segments
    )
    whole = median[:, -1].sum(1)
    error = float(np.median(np.abs(predicted - whole) / whole))
    return Profile(variant_sha256, base, segments, error, threads, machine())


def mean_tokens(session: Scorer, slates: Sequence[Slate]) -> tuple[float, float]:
    """Of a slate's prefix, and of a single candidate."""
    prefix = candidates = 0
    for slate in slates:
        session.clear_cache()
        stats = session.score(slate.user, slate.items, as_of=slate.as_of, force_exit=0).stats
        prefix += stats.prefix_tokens
        candidates += stats.candidate_tokens
    return prefix / len(slates), candidates / sum(len(slate.items) for slate in slates)


def _line(tokens: NDArray[np.float64], micros: NDArray[np.float64]) -> tuple[float, float]:
    once, each = nnls(np.stack([np.ones(len(tokens)), tokens], axis=1), micros)[0].tolist()
    return once, each
