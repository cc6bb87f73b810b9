"""What a variant costs on this machine: latency, memory. `rexit bench` and `rexit calibrate` use it.

In: a bundle's variant and slates. Out: measurements, and the costs to calibrate with. Needs NumPy alone, so it runs on a device.

    machine, Conditions          what a time is valid for: device, threads, versions
    Costs                        what a slate costs, by where its candidates stop
    CostProfile, measure_costs   slates -> what each segment costs on this machine, by tokens
    latencies                    what deployed policies take
    bench_variant                what `rexit bench` prints
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from rexit import __version__
from rexit.data.slates import SIZE, AnySlate, Slate, TokenSlate
from rexit.devices import Device, Provider
from rexit.errors import BundleError, InputError
from rexit.format.bundle import Bundle, GoldenSlate
from rexit.format.bundle.files import typed
from rexit.progress import DETAIL, Progress, silent

if TYPE_CHECKING:
    from rexit.runtime import Session

__all__ = [
    "BenchOptions",
    "Conditions",
    "CostProfile",
    "Costs",
    "SegmentCost",
    "bench_variant",
    "measure_costs",
]


def hardware_of(bundle: Bundle, device: Device | None) -> str:
    """Returns the device that `machine` describes, for a bundle that runs on `device`: the CPU for a provider."""
    return "cpu" if isinstance(device, Provider) else device or bundle.variant.target


def machine(device: str = "cpu") -> dict[str, Any]:
    """Returns what timings depend on, as plain JSON values.

    That is processor, architecture, usable cores, the GPU if `device` is not the CPU, and the versions of ONNX Runtime (None if
    there is none) and of rexit, whose kernels run inside it.
    """
    from rexit import runtime

    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    return {
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        **({} if device == "cpu" else {"gpu": _gpu()}),
        "onnxruntime": runtime.onnxruntime_version(),
        "rexit": __version__,
    }


def _gpu() -> str | None:
    """Name of the first GPU according to the CUDA driver; None without one."""
    name = ctypes.create_string_buffer(256)
    device = ctypes.c_int()
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    if cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(device), 0) or cuda.cuDeviceGetName(name, len(name), device):
        return None
    return name.value.decode()


@dataclass(frozen=True)
class Conditions:
    """What a time is valid for.

    Attributes:
        variant_sha256: The variant's digest.
        device: Where the segments run.
        threads: The backend's threads; the number of cores if the backend chooses.
        machine: The machine as `machine` returns it.
    """

    variant_sha256: str
    device: str
    threads: int
    machine: dict[str, Any]

    @classmethod
    def here(cls, bundle: Bundle, device: Device | None, threads: int) -> Conditions:
        """Returns the conditions of a session that `rexit.open` opens on this machine with the same arguments."""
        details = machine(hardware_of(bundle, device))
        return cls(bundle.variant_sha256, str(device or bundle.variant.target), threads or int(details["cores"]), details)


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
            progress(f"costs{_busy(conditions.machine)}", r * len(cases) + i, repeats * len(cases))
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


def _busy(machine: dict[str, Any]) -> str:
    """A progress step's detail where more threads want to run than there are cores, so that times are too long; else ""."""
    load, cores = os.getloadavg()[0], machine["cores"]
    return f"{DETAIL}the machine is busy: {load:.0f} threads want its {cores} cores" if load > cores + 0.5 else ""


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


SEED = 1


@dataclass(frozen=True)
class BenchOptions:
    """What can be chosen for a bench; `rexit bench --help` says the same.

    Attributes:
        slate: Candidates in a request.
        requests: Requests of each mode.
        threads: The backend's threads; 0: one per core.
        device: Where the segments run; None: the variant's own device.
    """

    slate: int = SIZE
    requests: int = 50
    threads: int = 0
    device: Device | None = None

    def check(self, items: int | None) -> None:
        """Raises InputError for options that cannot work. items: the number of the catalog's items; None: there is no catalog."""
        if items is not None and self.slate > items:
            raise InputError(f"--slate {self.slate}, the catalog has {items} items")


def bench_variant(bundle: Bundle, options: BenchOptions, progress: Progress = silent) -> dict[str, Any]:
    """Measures the bundle's selected variant.

    Returns:
        What `rexit bench --json` prints: milliseconds, bytes.

    Raises:
        InputError: for options that cannot work.
        BackendError: if the variant cannot run here.
    """
    from rexit import runtime

    options.check(len(bundle.catalog.items) if bundle.has_catalog else None)
    slates = bench_slates(bundle, options)
    depths = bundle.exits
    calibrated = bundle.policy() is not None
    modes: dict[str, int | None] = {"full depth": len(depths) - 1}
    if calibrated:
        modes["calibrated"] = None
    modes |= {depth_name(depth): k for k, depth in enumerate(depths[:-1])}

    begin = time.perf_counter()
    opened = runtime.open(bundle.path, bundle.variant.name, threads=options.threads, device=options.device)
    with contextlib.closing(opened) as session:
        session.score(slates[0].request)
        first_ms = (time.perf_counter() - begin) * 1000
        session.warm_up()
        rows = _modes(session, modes, slates, progress)
        memory = session.memory.prefixes + session.memory.buffers
    return {
        "variant": bundle.variant.name,
        "variant_sha256": bundle.variant_sha256,
        "slate": options.slate,
        "requests": options.requests,
        "threads": options.threads,
        "device": str(options.device or bundle.variant.target),
        "calibrated": calibrated,
        "modes": rows,
        "open_to_first_score_ms": first_ms,
        "session_bytes": memory,
        "peak_rss_bytes": _peak_rss(),
        "machine": machine(hardware_of(bundle, options.device)),
    }


def bench_slates(bundle: Bundle, options: BenchOptions) -> Sequence[AnySlate]:
    """Returns random users with random items, the same every time; no user twice while there are others. Without a catalog,
    golden slates, filled up to the size with their own candidates again. `liked` is False throughout: nothing here needs it."""
    if not bundle.has_catalog:
        return [_filled(slate, options.slate) for slate in islice(cycle(bundle.golden().slates), options.requests)]
    catalog, random = bundle.catalog, np.random.default_rng(SEED)
    count = options.requests
    scores = _filled_scores(bundle.golden().slates[0], options.slate)
    users = random.choice(len(catalog.users), count, replace=count > len(catalog.users))
    return [
        Slate(
            catalog.users.id(int(user)),
            tuple(catalog.items.id(int(row)) for row in random.choice(len(catalog.items), options.slate, replace=False)),
            as_of=None,
            liked=np.zeros(options.slate, np.bool_),
            inputs=catalog.inputs.example(),
            scores=scores,
        )
        for user in users
    ]


def _filled(slate: GoldenSlate, size: int) -> TokenSlate:
    candidates = tuple(islice(cycle(slate.candidates), size))
    return TokenSlate("", slate.prefix, candidates, np.zeros(size, np.bool_), _filled_scores(slate, size))


def _filled_scores(slate: GoldenSlate, size: int) -> dict[str, NDArray[np.float32]]:
    return {name: np.resize(numbers, size) for name, numbers in slate.scores.items()}


def _modes(session: Any, modes: dict[str, int | None], slates: Sequence[AnySlate], progress: Progress) -> list[dict[str, Any]]:
    """One row for each mode and state of the prefix. modes: the exit to force, None for the policy."""
    times = np.zeros((len(modes), 2, len(slates), 5))
    for r, slate in enumerate(slates):
        progress("requests", r, len(slates))
        for m, force_exit in enumerate(modes.values()):
            session.clear_cache()
            for warm in (0, 1):
                stats = session.score(slate.request, force_exit=force_exit).stats
                stages = stats.retrieval_us / 1000, stats.prefix_us / 1000, stats.slate_us / 1000
                times[m, warm, r] = stats.total_us / 1000, stats.candidate_layers / len(slate.items), *stages
    progress("requests", len(slates), len(slates))
    rows = []
    for m, mode in enumerate(modes):
        for warm, prefix in enumerate(("cold", "warm")):
            total, depth, *stages = times[m, warm].T
            rows.append(
                {
                    "mode": mode,
                    "force_exit": modes[mode],
                    "prefix": prefix,
                    **_percentiles(total),
                    "mean_ms": float(total.mean()),
                    "mean_layers": float(depth.mean()),
                    "retrieval_share": float(stages[0].sum() / total.sum()),
                    "stages_ms": {
                        name: float(values.mean()) for name, values in zip(("retrieval", "prefix", "slate"), stages, strict=True)
                    },
                }
            )
    return rows


def _percentiles(milliseconds: NDArray[np.float64]) -> dict[str, float]:
    p50, p90, p99 = np.percentile(milliseconds, [50, 90, 99]).tolist()
    return {"p50_ms": p50, "p90_ms": p90, "p99_ms": p99}


def _peak_rss() -> int:
    """Peak memory of this process in bytes, including Python and its packages."""
    import resource
    import sys

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
