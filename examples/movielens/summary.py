"""The end of `make demo`: the same slate scored by Python and by the C++ program, and the figures in one place.

python examples/movielens/summary.py DEMO --program PROGRAM     measure, write DEMO/summary.json and DEMO/baselines.json
python examples/movielens/summary.py DEMO --show                print them
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

import rexit
from rexit.calibration import Verdict
from rexit.data.slates import cut
from rexit.errors import script
from rexit.format.bundle import Bundle, Catalog, engine_folders, write_json
from rexit.runtime import Session, onnxruntime_library
from rexit.upkeep.measure import depth_name

BASELINES = Path(__file__).parents[2] / "benchmarks" / "ranking" / "baselines.py"
SLATE = 100
"""Films that are ranked together, as the policy was calibrated for."""
SIMPLE = "popularity,user and item bias,LightGCN"
"""The baselines that take seconds."""
COLUMNS = ("item", "probability", "log_odds", "exit")


def output_of(*command: object) -> str:
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"summary: {command[0]} failed with exit code {done.returncode}")
    return done.stdout


def a_slate(catalog: Catalog, size: int) -> tuple[int, list[int]]:
    """The first user with enough held-out films, and those films."""
    test = catalog.split("test")
    user = int(np.flatnonzero(np.bincount(test.users) >= size)[0])
    items = test.items[test.users == user][:size]
    return int(catalog.users.id(user)), [int(catalog.items.id(int(item))) for item in items]


def measure(demo: Path, program: Path) -> dict[str, Any]:
    catalog, bundle = Catalog.open(demo / "catalog"), Bundle.open(demo / "bundle")
    user, items = a_slate(catalog, 8)
    with rexit.open(demo / "bundle") as session:
        scores = session.score(user, items)
        pairs = score_test(session, catalog, demo / "policy.parquet")
    os.environ["REXIT_ONNXRUNTIME_LIBRARY"] = onnxruntime_library()
    raw = output_of(program, "--raw", demo / "bundle", user, *items)
    cpp = [line.split() for line in raw.splitlines()]
    python = [
        [str(item), f"{probability:.9g}", f"{log_odds:.9g}", str(exit)]
        for item, probability, log_odds, exit in zip(
            items, scores.probability.tolist(), scores.log_odds.tolist(), scores.exit.tolist(), strict=True
        )
    ]
    if python != cpp:
        sys.exit(f"summary: Python and C++ differ: {python} and {cpp}")

    report = json.loads((bundle.folder / "report.json").read_text())
    variants = [Bundle.open(demo / "bundle", name) for name in bundle.manifest.variants]
    times = {one.variant.name: milliseconds(demo, one.variant.name) for one in variants if one.variant.target == "cpu"}
    cold, warm = times[bundle.variant.name]
    scored = ("--scored", f"rexit, with the policy={pairs}")
    command = (sys.executable, BASELINES, demo / "catalog", *scored, "--slate", SLATE, "--only", SIMPLE, "--json")
    write_json(demo / "baselines.json", json.loads(output_of(*command)))
    return {
        "metrics": [*report["settings"]["metrics"], "user-auc", "auc"],
        "table": report["table"],
        "depths": [depth_name(e["layers"]) for e in report["exits"][:-1]],
        "looked_up": next((e["stopped"] for e in report["exits"] if e["layers"] == 0), 0.0),
        "layers": bundle.manifest.model.layers,
        "exits": bundle.exits,
        "slate": SLATE,
        "slate_ms_full": cold["full depth"],
        "slate_ms_exit": cold["calibrated"],
        "slate_ms_full_warm": warm["full depth"],
        "slate_ms_exit_warm": warm["calibrated"],
        "variants": [variant_figures(one, times[one.variant.name][0] if one.variant.name in times else None) for one in variants],
        "retriever_recall@20": catalog.info["retrieval"]["recall@20"],
        "popularity_recall@20": catalog.info["retrieval"]["popularity_recall@20"],
        "verdict": report["verdict"],
        "report": str(bundle.folder / "report.html"),
        "machine": report["machine"],
        "example": {"user": user, "python_equals_cpp": True, "scores": [dict(zip(COLUMNS, row, strict=True)) for row in cpp]},
    }


def score_test(session: Session, catalog: Catalog, out: Path) -> Path:
    """Every pair of the test split in its slate, as `rexit score` writes pairs."""
    slates = cut(catalog, "test", SLATE)
    parts = [session.score(slate.request).probability for slate in slates]
    columns = {
        "user_id": [slate.user for slate in slates for _ in slate.items],
        "item_id": [item for slate in slates for item in slate.items],
        "probability": np.concatenate(parts),
    }
    pl.DataFrame(columns).write_parquet(out)
    return out


def milliseconds(demo: Path, variant: str) -> tuple[dict[str, float], dict[str, float]]:
    """Median per slate in each mode of `rexit bench`, with a cold and with a warm prefix."""
    rexit_command = Path(sys.executable).with_name("rexit")
    bench = json.loads(output_of(rexit_command, "bench", demo / "bundle", "--variant", variant, "--slate", SLATE, "--json"))
    cold, warm = (
        {mode["mode"]: mode["p50_ms"] for mode in bench["modes"] if mode["prefix"] == prefix} for prefix in ("cold", "warm")
    )
    return cold, warm


def variant_figures(bundle: Bundle, cold: dict[str, float] | None) -> dict[str, Any]:
    """Size, time at full depth if it runs here, the gate's figures at the last exit (none for float32), engines."""
    variant = bundle.variant
    last = variant.quality["exits"][-1] if variant.quality else {}
    return {
        "name": variant.name,
        "bytes": sum(entry.bytes for entry in variant.files.values()),
        "slate_ms_full": cold["full depth"] if cold else None,
        "correlation": last.get("correlation"),
        "auc_change": last["auc"] - last["auc_fp32"] if last else None,
        "engines": [folder.name for folder in engine_folders(bundle.folder)],
    }


def show(demo: Path) -> None:
    figures = json.loads((demo / "summary.json").read_text())
    titles = pl.read_csv(demo / "data" / "ml-100k.item", separator="\t", quote_char=None, infer_schema=False)
    title = dict(titles.select(titles.columns[:2]).iter_rows())
    console = Console(highlight=False)

    example = figures["example"]
    table = Table(
        title=f"User {example['user']}, scored by Python and by the C++ program, with equal results to the last bit",
        title_justify="left",
    )
    for column in ("film", "probability of a like", "stopped after layer"):
        table.add_column(column, justify="left" if column == "film" else "right")
    for row in sorted(example["scores"], key=lambda row: -float(row["probability"])):
        table.add_row(title[row["item"]], f"{float(row['probability']):.3f}", str(figures["exits"][int(row["exit"])]))
    console.print(table)

    heading = f"MovieLens 100k, the test split, in slates of {figures['slate']}: the policy beside fixed depths"
    table = Table(title=heading, title_justify="left")
    for column in ("", *figures["metrics"], "layers run", "ms per slate", "speed"):
        table.add_column(column, justify="right" if column else "left")
    shown = {row["policy"]: row for row in figures["table"] if row["policy"] in ("full depth", "policy", *figures["depths"])}
    for name, row in shown.items():
        values = (f"{row['values'][metric]:.4f}" for metric in figures["metrics"])
        speed = shown["full depth"]["ms_per_slate"] / row["ms_per_slate"]
        table.add_row(name, *values, f"{row['mean_layers']:.1f}", f"{row['ms_per_slate']:.1f}", f"{speed:.2f}")
    console.print(table)
    again = figures["slate_ms_full_warm"], figures["slate_ms_exit_warm"]
    console.print(
        f"The same user again, with the prefix cached: {again[0]:.1f} ms at full depth, {again[1]:.1f} with the policy."
    )
    subprocess.run([sys.executable, BASELINES, demo / "baselines.json"], check=True)

    table = Table(title="The variants, at full depth", title_justify="left")
    for column in ("", "MB", f"ms per slate of {figures['slate']}", "correlation with fp32", "AUC against fp32"):
        table.add_column(column, justify="right" if column else "left")
    for row in figures["variants"]:
        against = ("-", "-") if row["correlation"] is None else (f"{row['correlation']:.6f}", f"{row['auc_change']:+.4f}")
        time = "not run" if row["slate_ms_full"] is None else f"{row['slate_ms_full']:.1f}"
        table.add_row(row["name"], f"{row['bytes'] / 1e6:.1f}", time, *against)
    console.print(table)
    for row in figures["variants"]:
        if row["engines"]:
            console.print(
                f"{row['name']}: engines {', '.join(row['engines'])}, compiled, not run (that needs the GPU)", highlight=False
            )
    console.print(f"The look-up alone answered {100 * figures['looked_up']:.0f} % of the candidates with the policy.")
    console.print(Verdict(**figures["verdict"]).text, markup=False)
    console.print(f"With curves and the guarantee: {figures['report']}", markup=False, soft_wrap=True)


@script
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path)
    parser.add_argument("--program", type=Path, help="examples/cpp, built")
    parser.add_argument("--show", action="store_true", help="print the figures measured before")
    args = parser.parse_args()
    if args.show:
        show(args.demo)
    else:
        write_json(args.demo / "summary.json", measure(args.demo, args.program))


if __name__ == "__main__":
    main()
