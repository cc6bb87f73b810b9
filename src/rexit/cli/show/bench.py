"""What `rexit bench` measured."""

from __future__ import annotations

from typing import Any

from rexit.cli.common.output import stdout
from rexit.cli.common.tables import counted, print_table


def print_bench(report: dict[str, Any]) -> None:
    """Prints tables of latency, throughput and load. report: of `rexit.measure.bench`."""
    print_table(
        f"{report['variant']}: milliseconds for a slate of {report['slate']}, {counted(report['requests'], 'request')}",
        ["mode", "prefix", "p50", "p90", "p99", "layers", "retrieval ms", "prefix ms", "slate ms"],
        [
            [
                row["mode"],
                row["prefix"],
                *(row[percentile] for percentile in ("p50_ms", "p90_ms", "p99_ms")),
                row["mean_layers"],
                *(round(row["stages_ms"][stage], 2) for stage in ("retrieval", "prefix", "slate")),
            ]
            for row in report["modes"]
        ],
    )
    if report["throughput"]:
        print_table(
            "All sessions busy, cold prefixes",
            ["sessions", "requests/s"],
            [[row["sessions"], row["requests_per_s"]] for row in report["throughput"]],
        )
    if report["load"]:
        print_table(
            f"Poisson arrivals, {counted(report['load'][0]['sessions'], 'session')}: milliseconds from arrival to answer",
            ["of capacity", "requests/s", "p50", "p90", "p99", "mean wait"],
            [
                [
                    f"{row['share']:.0%}",
                    *(row[k] for k in ("requests_per_s", "p50_ms", "p90_ms", "p99_ms", "waiting_ms")),
                ]
                for row in report["load"]
            ],
        )
    machine, threads = report["machine"], report["threads"] or "one per core"
    stdout.print(f"Open to first score: {report['open_to_first_score_ms']:.0f} ms", markup=False)
    stdout.print(
        f"Memory: {report['peak_rss_bytes'] / 1e6:.0f} MB peak, {report['session_bytes'] / 1e6:.1f} MB of it session buffers"
    )
    stdout.print(f"Machine: {machine['cpu']}, {machine['cores']} cores, threads {threads}", markup=False)
    if not report["calibrated"]:
        stdout.print("Not calibrated: run `rexit calibrate` on this machine to see what early exit saves.")
