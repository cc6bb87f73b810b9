"""`rexit bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from rexit.cli.common.options import DeviceOption, JsonOption, ThreadsOption, VariantOption, open_bundle
from rexit.cli.common.output import print_json, progress, shown, stdout
from rexit.cli.common.tables import counted, print_table
from rexit.errors import InputError
from rexit.slates import SIZE


def bench(
    bundle: Annotated[Path, typer.Argument(help="The bundle.")],
    variant: VariantOption = None,
    slate: Annotated[int, typer.Option(min=1, help="Candidates per request.")] = SIZE,
    requests: Annotated[int, typer.Option(min=1, help="Requests per mode: full depth, the policy, every fixed exit.")] = 50,
    threads: ThreadsOption = 0,
    device: DeviceOption = None,
    sessions: Annotated[
        str, typer.Option(help="Numbers of sessions that work at once, one measurement per number. '': none.")
    ] = "1,2,4",
    json: JsonOption = False,
) -> None:
    """Measure how long slates of the catalog's items for its users take on this machine.

    Full depth, the calibrated policy and every fixed exit alternate inside one loop. Each request runs with a cold prefix, as for
    a new user, and again with a warm one, as for the same user's next slate. `retrieval` is the time for neighbours, histories
    and the prompt. Then several sessions work at once. At last requests arrive at random times (Poisson), half
    and four fifths as many as that: their latency counts from arrival and includes waiting.

    ```
    rexit bench bundle --slate 50 --requests 200 --threads 2
    ```
    """
    from rexit.measure.bench import BenchOptions, bench_variant

    options = BenchOptions(
        slate=slate,
        requests=requests,
        threads=threads,
        device=device,
        sessions=_numbers(sessions),
    )
    opened = open_bundle(bundle, variant)
    with progress() as bar:
        report = bench_variant(opened, options, shown(bar))
    if json:
        print_json(report)
    else:
        _print_report(report)


def _numbers(sessions: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in sessions.split(",") if part.strip())
    except ValueError as exc:
        raise InputError(f"--sessions {sessions!r}, expected numbers separated by commas") from exc


def _print_report(report: dict[str, Any]) -> None:
    """Prints tables of latency, throughput and load."""
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
    if report["throughput"]:
        rows = [{"sessions": row["sessions"], "requests/s": row["requests_per_s"]} for row in report["throughput"]]
        print_table("All sessions busy, cold prefixes", rows)
    if report["load"]:
        print_table(
            f"Poisson arrivals, {counted(report['load'][0]['sessions'], 'session')}: milliseconds from arrival to answer",
            [
                {
                    "of capacity": f"{row['share']:.0%}",
                    "requests/s": row["requests_per_s"],
                    **{percentile: row[f"{percentile}_ms"] for percentile in ("p50", "p90", "p99")},
                    "mean wait": row["waiting_ms"],
                }
                for row in report["load"]
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
