"""`rexit bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from rexit.data.slates import SIZE
from rexit.doors.cli.common.arguments import DeviceOption, JsonOption, ThreadsOption, VariantOption, open_bundle
from rexit.doors.cli.common.output import counted, print_json, print_table, progress, shown, stdout


def bench(
    bundle: Annotated[Path, typer.Argument(help="The bundle.")],
    variant: VariantOption = None,
    slate: Annotated[int, typer.Option(min=1, help="Candidates per request.")] = SIZE,
    requests: Annotated[int, typer.Option(min=1, help="Requests per mode: full depth, the policy, every fixed exit.")] = 50,
    threads: ThreadsOption = 0,
    device: DeviceOption = None,
    json: JsonOption = False,
) -> None:
    """Measure how long slates of the catalog's items for its users take on this machine.

    Full depth, the calibrated policy and every fixed exit alternate inside one loop. Each request runs with a cold prefix, as for
    a new user, and again with a warm one, as for the same user's next slate. `retrieval` is the time for neighbours, histories
    and the prompt.

    ```
    rexit bench bundle --slate 50 --requests 200 --threads 2
    ```
    """
    from rexit.upkeep.measure import BenchOptions, bench_variant

    options = BenchOptions(slate, requests, threads, device)
    opened = open_bundle(bundle, variant)
    with progress() as bar:
        report = bench_variant(opened, options, shown(bar))
    if json:
        print_json(report)
    else:
        _print_report(report)


def _print_report(report: dict[str, Any]) -> None:
    """Prints a table of latency, and what it was measured on."""
    print_table(
        f"{report['variant']}: milliseconds for a slate of {report['slate']}, {counted(report['requests'], 'request')}",
        [
            {
                **{name: row[name] for name in ("mode", "prefix")},
                **{percentile: row[f"{percentile}_ms"] for percentile in ("p50", "p90", "p99")},
                "layers": row["mean_layers"],
                **{f"{stage} ms": round(row["stages_ms"][stage], 2) for stage in ("retrieval", "prefix", "slate")},
            }
            for row in report["modes"]
        ],
    )
    machine, threads = report["machine"], report["threads"] or "one per core"
    stdout.print(f"Open to first score: {report['open_to_first_score_ms']:.0f} ms")
    stdout.print(
        f"Memory: {report['peak_rss_bytes'] / 1e6:.0f} MB peak, {report['session_bytes'] / 1e6:.1f} MB of it session buffers"
    )
    stdout.print(f"Machine: {machine['cpu']}, {machine['cores']} cores, threads {threads}")
    if not report["calibrated"]:
        stdout.print("Not calibrated: run `rexit calibrate` on this machine to see what early exit saves.")
