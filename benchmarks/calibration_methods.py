"""Which method finds the best scales for a tensorrt-int8 variant: how far each one's log-odds are from float32's.

    python benchmarks/calibration_methods.py --checkpoint build/demo/checkpoint --catalog build/demo/catalog [--json]

Ranges come from the training slates that `rexit export` draws. Each method derives scales from them; the resulting int8 graphs
score validation slates, and |difference of log-odds| from the float32 graphs is averaged at every exit.

max: the largest magnitude. percentile: of all magnitudes. entropy: ONNX Runtime's own, the threshold whose 128 levels distort the
distribution least (Kullback-Leibler).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from onnxruntime.quantization.calibrate import HistogramCollector
from rich.console import Console
from rich.table import Table

from rexit.bundle import Catalog
from rexit.exporter.gate import quality
from rexit.exporter.graph import ranges
from rexit.exporter.graph.chain import Chain
from rexit.exporter.graph.observation import observe
from rexit.exporter.graph.segment import SegmentModule
from rexit.exporter.graph.targets import find_target
from rexit.exporter.graph.trace import derive_segment, export_segment
from rexit.exporter.model.checkpoint import load_checkpoint

BINS, LEVELS = 4096, 128
ENTROPY_BINS = 1025

Histogram = np.ndarray
"""Counts of magnitudes in BINS equal bins from 0 to the largest."""


def percentile(share: float) -> Callable[[Histogram, float], float]:
    def threshold(counts: Histogram, largest: float) -> float:
        below = np.cumsum(counts) / counts.sum()
        return largest * (int(np.searchsorted(below, share / 100)) + 1) / BINS

    return threshold


def entropy(counts: Histogram, largest: float) -> float:
    """ONNX Runtime's threshold. Its collector takes both signs in an odd number of bins."""
    half = counts.reshape(ENTROPY_BINS // 2, -1).sum(1)
    both = np.concatenate([half[::-1], [0], half])
    edges = np.linspace(-largest, largest, len(both) + 1)
    collector = HistogramCollector("entropy", True, len(both), LEVELS, 99.99, "same")
    low, high = collector.get_entropy_threshold((both, edges, edges[0], edges[-1], edges[-1]), LEVELS)
    return float(max(-low, high))


METHODS: dict[str, Callable[[Histogram, float], float]] = {
    "max": lambda _counts, largest: largest,
    "percentile 99.99": percentile(99.99),
    "percentile 99.9": percentile(99.9),
    "entropy": entropy,
}


def measure(checkpoint: str, catalog_folder: Path, slates: int, exits: list[int] | None, head: str | None) -> dict[str, Any]:
    catalog = Catalog.open(catalog_folder)
    loaded = load_checkpoint(checkpoint, exits, head, catalog.info["labels"])
    target, max_tokens = find_target("tensorrt", "int8"), 512
    assert target.base is not None and target.gate is not None
    prompts, calibrating = quality.Prompts.draw(catalog, slates), ranges.draw(catalog)
    found: dict[str, Any] = {"pairs": len(prompts.liked), "exits": loaded.exits, "methods": {}}
    with tempfile.TemporaryDirectory() as work:
        exact, made = Path(work, "exact"), Path(work, "made")
        exact.mkdir()
        made.mkdir()
        described = [
            export_segment(SegmentModule(loaded.decoder, loaded.heads, k, begin, end).eval(), k, target.base, exact)
            for k, (begin, end) in enumerate(zip((0, *loaded.exits), loaded.exits, strict=False))
        ]
        chain = Chain(exact, described, max_tokens)
        largest = ranges.largest(chain, calibrating)
        counts = [{name: np.zeros(BINS, np.int64) for name in each} for each in largest]

        def see(k: int, name: str, numbers: np.ndarray) -> None:
            counts[k][name] += np.histogram(np.abs(numbers), BINS, (0, largest[k][name]))[0]

        observe(chain, calibrating, see)
        expected = prompts.log_odds(chain)
        for method, threshold in METHODS.items():
            scaled = [{name: threshold(counts[k][name], top) for name, top in each.items()} for k, each in enumerate(largest)]
            segments = [derive_segment(one, exact, target, made, scaled[k]) for k, one in enumerate(described)]
            seen = prompts.log_odds(Chain(made, segments, max_tokens))
            judged = quality.assess(prompts, loaded.exits, target.gate, expected, seen)
            found["methods"][method] = [
                {"mean": row.mean, "worst": row.worst, "auc_drop": row.auc_fp32 - row.auc} for row in judged.exits
            ]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="build/demo/checkpoint")
    parser.add_argument("--catalog", type=Path, default=Path("build/demo/catalog"))
    parser.add_argument("--exits", type=lambda text: [int(depth) for depth in text.split(",")])
    parser.add_argument("--head")
    parser.add_argument("--slates", type=int, default=100)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    result = measure(args.checkpoint, args.catalog, args.slates, args.exits, args.head)
    if args.json:
        print(json.dumps(result, indent=1))
        return
    table = Table(title=f"mean |difference of log-odds|, {result['pairs']} validation pairs", title_justify="left")
    for column in ("method", *(f"exit {depth}" for depth in result["exits"]), "all"):
        table.add_column(column, justify="right" if column != "method" else "left")
    for method, rows in result["methods"].items():
        means = [row["mean"] for row in rows]
        table.add_row(method, *(f"{mean:.4f}" for mean in means), f"{np.mean(means):.4f}")
    Console(highlight=False).print(table)


if __name__ == "__main__":
    main()
