"""`rexit bench`."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rexit.cli._output import DeviceOption, JsonOption, print_json, print_table, progress, stdout
from rexit.errors import InputError

if TYPE_CHECKING:
    from rexit.bundle import Bundle

SEED = 1


def register(app: typer.Typer) -> None:
    app.command("bench")(bench)


def bench(
    bundle: Annotated[Path, typer.Argument(help="The bundle.")],
    variant: Annotated[str | None, typer.Option(help="Which variant; the bundle's first if not given.")] = None,
    slate: Annotated[int, typer.Option(min=1, help="Candidates in each request.")] = 20,
    requests: Annotated[int, typer.Option(min=1, help="Requests for each way of answering.")] = 50,
    threads: Annotated[int, typer.Option(help="Threads of the backend; 0: one per core.")] = 0,
    device: DeviceOption = None,
    json: JsonOption = False,
) -> None:
    """Measure how long slates of real items for real users take on this machine.

    Full depth, the calibrated policy and every fixed exit take turns inside one loop, each request with a cold prefix (a new
    user) and again with a warm one (the same user's next slate). `retrieval` is the share spent on neighbours, histories and
    prompt assembly.

        rexit bench bundle --slate 50 --requests 200 --threads 2
    """
    from rexit.bundle import Bundle

    report = measure(Bundle.open(bundle, variant), slate, requests, threads, device)
    if json:
        print_json(report)
        return
    print_table(
        f"{report['variant']}: milliseconds for a slate of {report['slate']}, {requests} requests",
        ["", "prefix", "p50", "p90", "p99", "layers", "retrieval"],
        [
            [
                m["mode"],
                m["prefix"],
                *(f"{m[p]:.2f}" for p in ("p50_ms", "p90_ms", "p99_ms")),
                f"{m['mean_layers']:.1f}",
                f"{m['retrieval_share']:.1%}",
            ]
            for m in report["modes"]
        ],
    )
    machine = report["machine"]
    stdout.print(f"Open to first score: {report['open_to_first_score_ms']:.0f} ms", markup=False)
    stdout.print(
        f"Memory: {report['peak_rss_bytes'] / 1e6:.0f} MB peak, of it session buffers {report['session_bytes'] / 1e6:.1f} MB"
    )
    stdout.print(f"Machine: {machine['cpu']}, {machine['cores']} cores, threads {threads or 'one per core'}", markup=False)
    if not report["calibrated"]:
        stdout.print("Not calibrated: run `rexit calibrate` on this machine to see what early exit saves.")


def measure(bundle: Bundle, slate: int, requests: int, threads: int, device: str | None = None) -> dict[str, Any]:
    """The report as `--json` prints it: milliseconds, bytes, shares of 1."""
    import time

    import numpy as np

    from rexit import runtime
    from rexit.calibration.report import depth_name, machine

    catalog, layers = bundle.catalog, bundle.manifest.exits
    if slate > len(catalog.items):
        raise InputError(f"--slate {slate}, the catalog has {len(catalog.items)} items")
    random = np.random.default_rng(SEED)
    users = [
        catalog.users.id(int(row)) for row in random.choice(len(catalog.users), requests, replace=requests > len(catalog.users))
    ]
    slates = [[catalog.items.id(int(row)) for row in random.choice(len(catalog.items), slate, replace=False)] for _ in users]
    calibrated = bundle.policy() is not None
    modes: dict[str, int | None] = {"full depth": len(layers) - 1}
    if calibrated:
        modes["calibrated"] = None
    modes |= {depth_name(depth): k for k, depth in enumerate(layers[:-1])}

    begin = time.perf_counter()
    with (
        contextlib.closing(runtime.open(bundle.path, bundle.variant.name, threads=threads, device=device)) as session,
        progress() as bar,
    ):
        session.score(users[0], slates[0])
        first_ms = (time.perf_counter() - begin) * 1000
        session.warm_up()
        task = bar.add_task("requests", total=requests)
        taken = np.zeros((len(modes), 2, requests, 3))
        for r, (user, items) in enumerate(zip(users, slates, strict=True)):
            for m, force_exit in enumerate(modes.values()):
                session.clear_cache()
                for warm in (0, 1):
                    stats = session.score(user, items, force_exit=force_exit).stats
                    taken[m, warm, r] = stats.total_us / 1000, stats.retrieval_us / 1000, stats.candidate_layers / slate
            bar.advance(task)
        memory = int(session.memory)
    rows = []
    for m, mode in enumerate(modes):
        for warm, prefix in enumerate(("cold", "warm")):
            total, retrieval, depth = taken[m, warm].T
            p50, p90, p99 = np.percentile(total, [50, 90, 99]).tolist()
            rows.append(
                {
                    "mode": mode,
                    "force_exit": modes[mode],
                    "prefix": prefix,
                    "p50_ms": p50,
                    "p90_ms": p90,
                    "p99_ms": p99,
                    "mean_ms": float(total.mean()),
                    "mean_layers": float(depth.mean()),
                    "retrieval_share": float(retrieval.sum() / total.sum()),
                }
            )
    return {
        "variant": bundle.variant.name,
        "variant_sha256": bundle.variant_sha256,
        "slate": slate,
        "requests": requests,
        "threads": threads,
        "device": device or bundle.variant.target,
        "calibrated": calibrated,
        "modes": rows,
        "open_to_first_score_ms": first_ms,
        "session_bytes": memory,
        "peak_rss_bytes": _peak_rss(),
        "machine": machine(),
    }


def _peak_rss() -> int:
    """The most memory this process has held, in bytes; Python and its packages included."""
    import resource
    import sys

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
