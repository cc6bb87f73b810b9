"""The end of `make demo`: the same slate scored by Python and by the C++ program, and the figures in one place.

    python examples/movielens/summary.py DEMO --program PROGRAM     measure, write DEMO/summary.json
    python examples/movielens/summary.py --show DEMO                print it
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

import rexit
from rexit.bundle import Bundle, Catalog

HERE = Path(__file__).parent


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
    raw = output_of(program, "--raw", demo / "bundle", user, *items)
    cpp = [line.split() for line in raw.splitlines()]
    python = [
        [str(item), f"{probability:.9g}", f"{log_odds:.9g}", str(bundle.manifest.exits[exit])]
        for item, probability, log_odds, exit in zip(
            items, scores.probability.tolist(), scores.log_odds.tolist(), scores.exit.tolist(), strict=True
        )
    ]
    if python != cpp:
        sys.exit(f"summary: Python and C++ differ: {python} and {cpp}")

    report = json.loads((bundle.folder / "report.json").read_text())
    bench = json.loads(output_of(Path(sys.executable).with_name("rexit"), "bench", demo / "bundle", "--slate", 20, "--json"))
    baseline = json.loads(output_of(sys.executable, HERE / "baseline.py", demo / "catalog"))
    full, chosen = report["table"][0], report["table"][-1]
    return {
        "test_auc_full": full["test"]["auc"],
        "test_auc_exit": chosen["test"]["auc"],
        "test_auc_bias_baseline": baseline["test"],
        "mean_layers": chosen["test"]["mean_layers"],
        "layers": bundle.manifest.model.layers,
        "slate_ms_full": bench,
        "slate_ms_exit": bench,
        "retriever_recall@20": catalog.info["retrieval"]["recall@20"],
        "popularity_recall@20": catalog.info["retrieval"]["popularity_recall@20"],
        "conclusion": report["conclusion"],
        "machine": report["machine"],
        "example": {"user": user, "scores": [dict(zip(("item", "probability", "log_odds", "layers"), row)) for row in cpp]},
        "python_equals_cpp": True,
    }
