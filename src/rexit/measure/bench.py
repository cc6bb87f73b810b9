"""What `rexit bench` measures: full depth, the calibrated policy and every fixed exit alternate inside one loop, each request
with a cold prefix, and again with a warm one."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rexit.bundle import Bundle, GoldenSlate
from rexit.devices import Device
from rexit.errors import InputError
from rexit.measure.costs import depth_name
from rexit.measure.machine import hardware_of, machine
from rexit.progress import Progress, silent
from rexit.slates import SIZE, AnySlate, Slate, TokenSlate

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
    slates = draw(bundle, options)
    depths = bundle.manifest.exits
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


def draw(bundle: Bundle, options: BenchOptions) -> Sequence[AnySlate]:
    """Returns random users with random items, the same every time; no user twice while there are others. Without a catalog,
    golden slates, filled up to the size with their own candidates again. `liked` is False throughout: nothing here needs it."""
    if not bundle.has_catalog:
        return [_filled(slate, options.slate) for slate in islice(cycle(bundle.golden().slates), options.requests)]
    catalog, random = bundle.catalog, np.random.default_rng(SEED)
    count = options.requests
    scores = bundle.golden().slates[0].scores if catalog.reads_scores else None
    users = random.choice(len(catalog.users), count, replace=count > len(catalog.users))
    return [
        Slate(
            catalog.users.id(int(user)),
            tuple(catalog.items.id(int(row)) for row in random.choice(len(catalog.items), options.slate, replace=False)),
            as_of=None,
            liked=np.zeros(options.slate, np.bool_),
            inputs=catalog.inputs.example(),
            scores=None if scores is None else np.resize(scores, options.slate),
        )
        for user in users
    ]


def _filled(slate: GoldenSlate, size: int) -> TokenSlate:
    scores = None if slate.scores is None else np.resize(slate.scores, size)
    return TokenSlate("", slate.prefix, tuple(islice(cycle(slate.candidates), size)), np.zeros(size, np.bool_), scores)


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
