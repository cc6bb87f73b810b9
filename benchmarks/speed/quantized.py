"""What int8 and int4 save in time, disk space and memory: the variants of one bundle at full depth, in turn for each request.

    python benchmarks/speed/quantized.py [--requests 20] [--json]

The model has the shape of SmolLM2-135M (30 layers, 576 wide, six exits) and random weights, so this says nothing about quality.
A request is 20 candidates of 12 tokens behind a prefix of 200, cold each time. Catalog and bundle are made once in --work and
reused. All variants run in one process; peak memory is that of a separate process for each variant, which opens it and scores
five requests, minus that of a process that only imports rexit.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from workload import CANDIDATE, SIX_EXITS, Lengths, Words, catalog_of_fixed_lengths, checkpoint

import rexit
from rexit.bundle import Bundle, Catalog
from rexit.scripts import script

PRECISIONS = ("fp32", "int8", "int4")
LENGTHS = Lengths()
SLATE, PREFIX = 20, LENGTHS.prefixes[0]

# Not getrusage: a process inherits its parent's peak there.
_MEMORY = """
import sys
import numpy, rexit
if len(sys.argv) > 1:
    with rexit.open(sys.argv[1], sys.argv[2]) as session:
        for user in range(5):
            session.score(user, list(range(int(sys.argv[3]))), force_exit=int(sys.argv[4]))
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def bundle_of_all(work: Path) -> Path:
    """One bundle with a variant per precision, exported unless it exists."""
    out = work / "bundle"
    if not (out / "manifest.json").exists():
        from rexit.exporter.export import export_bundle
        from rexit.exporter.options import ExportOptions

        work.mkdir(parents=True, exist_ok=True)
        print(f"exporting {out}", file=sys.stderr)
        export_bundle(
            checkpoint(work / "checkpoint"),
            catalog_of_fixed_lengths(work, Words.letters(work), LENGTHS),
            out,
            ExportOptions(
                exits=SIX_EXITS, head="shared", precisions=PRECISIONS, golden_slates=1, quality_slates=15, accept_loss=True
            ),
        )
    return out


def latencies(path: Path, requests: int) -> dict[str, np.ndarray]:
    """Milliseconds of each request, by precision; the first request, which warms up, is left out."""
    catalog = Catalog.open(path / "catalog")
    random = np.random.default_rng(0)
    microseconds = {precision: np.zeros(requests + 1) for precision in PRECISIONS}
    with contextlib.ExitStack() as stack:
        sessions = {name: stack.enter_context(rexit.open(path, f"cpu-{name}")) for name in PRECISIONS}
        for n in range(requests + 1):
            items = random.choice(len(catalog.items), SLATE, replace=False).tolist()
            order = PRECISIONS if n % 2 else PRECISIONS[::-1]
            for name in order:
                sessions[name].clear_cache()
                stats = sessions[name].score(n % LENGTHS.users, items, force_exit=len(SIX_EXITS) - 1).stats
                assert (stats.prefix_tokens, stats.candidate_tokens) == (PREFIX, SLATE * CANDIDATE), stats
                microseconds[name][n] = stats.total_us / 1000
    return {name: values[1:] for name, values in microseconds.items()}


def peak(*arguments: object) -> int:
    """Peak memory of the process above, in bytes. Linux only."""
    done = subprocess.run([sys.executable, "-c", _MEMORY, *map(str, arguments)], stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout) * 1024


def measure(path: Path, requests: int) -> dict[str, Any]:
    """Figures of every precision, and their ratios to fp32; for times, request by request."""
    microseconds = latencies(path, requests)
    imports = peak()
    report: dict[str, Any] = {"slate": SLATE, "prefix": PREFIX, "candidate": CANDIDATE, "requests": requests, "precisions": {}}
    for name in PRECISIONS:
        opened = Bundle.open(path, f"cpu-{name}")
        report["precisions"][name] = {
            "ms": float(np.median(microseconds[name])),
            "bytes": sum(entry.bytes for entry in opened.variant.files.values()),
            "peak_bytes": peak(path, f"cpu-{name}", SLATE, len(SIX_EXITS) - 1) - imports,
        }
    exact = report["precisions"]["fp32"]
    report["ratios"] = {
        name: {
            "speed": float(np.median(microseconds["fp32"] / microseconds[name])),
            **{what: report["precisions"][name][what] / exact[what] for what in ("bytes", "peak_bytes")},
        }
        for name in PRECISIONS[1:]
    }
    return report


@script
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/bench/quantized"))
    parser.add_argument("--requests", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    result = measure(bundle_of_all(args.work), args.requests)
    if args.json:
        print(json.dumps(result, indent=1))
        return
    table = Table(title=f"{SLATE} candidates of {CANDIDATE} tokens behind {PREFIX}, full depth, cold", title_justify="left")
    for column in ("", "ms", "times as fast", "MB", "of fp32", "peak MB", "of fp32"):
        table.add_column(column, justify="right" if column else "left")
    for name, row in result["precisions"].items():
        ratio = result["ratios"].get(name, {"speed": 1, "bytes": 1, "peak_bytes": 1})
        figures = (f"{row['ms']:.0f}", f"{ratio['speed']:.2f}", f"{row['bytes'] / 1e6:.0f}", f"{ratio['bytes']:.2f}")
        table.add_row(name, *figures, f"{row['peak_bytes'] / 1e6:.0f}", f"{ratio['peak_bytes']:.2f}")
    Console(highlight=False).print(table)


if __name__ == "__main__":
    main()
