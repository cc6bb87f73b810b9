"""One fixed scale for each linear layer's input, as TensorRT wants it: every way to choose it, by log-odds against float32's.

    python benchmarks/quantization/fixed_scales.py BUNDLE CATALOG [--slates 100] [--json]

BUNDLE has cpu-fp32. Its linear layers get the 8 bits of the target tensorrt-int8; all else stays float32, so that what is seen is
the scales' own. They are chosen on the rows that an export samples from training slates, and judged on `--slates` of validation,
as the export's gate does it.

max          the largest magnitude
99.99 % …    that share of magnitudes is below it
entropy      least Kullback-Leibler divergence between the magnitudes and their 128 levels, as TensorRT's entropy calibrator
             describes it (Migacz, "8-bit inference with TensorRT", GTC 2017)
square       least mean square error (`fixed_scale`)

Each with channels as they are and smoothed before (`smooth_for_fixed_scales`), every linear layer in int8. An export smooths,
takes `square`, and leaves the few layers that would lose most as they are.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

from rexit.bundle import Bundle, Catalog
from rexit.exporter.gate.quality import Prompts, Quality, assess
from rexit.exporter.graph import activations
from rexit.exporter.graph.chain import Chain
from rexit.exporter.graph.precision.fixed_scale import clipping_bound
from rexit.exporter.graph.precision.fold_linear_weights import fold_linear_weights
from rexit.exporter.graph.precision.quantize_dequantize import quantize_dequantize_int8
from rexit.exporter.graph.precision.smooth_linear_inputs import smooth_for_fixed_scales
from rexit.exporter.graph.targets import Pass, find_target
from rexit.exporter.graph.trace import derive_segment
from rexit.scripts import script

BINS, LEVELS = 8192, 128
Floats = NDArray[np.float32]


def below(share: float, x: Floats) -> float:
    return float(np.quantile(np.abs(x), share))


def entropy(x: Floats) -> float:
    counts, edges = np.histogram(np.abs(x), BINS, (0, np.abs(x).max()))
    ends = np.arange(LEVELS, BINS + 1, LEVELS // 4)
    return float(edges[ends[np.argmin([_divergence(counts, int(end)) for end in ends])]])


def _divergence(counts: NDArray[np.int64], end: int) -> float:
    kept = counts[:end].astype(np.float64)
    level, some = np.arange(end) * LEVELS // end, kept > 0
    mean = np.bincount(level, kept, LEVELS) / np.maximum(np.bincount(level[some], minlength=LEVELS), 1)
    seen = np.where(some, mean[level], 0)
    kept[-1] += counts[end:].sum()
    p, q = kept[kept > 0] / kept.sum(), seen[kept > 0] / seen.sum()
    return float((p * np.log(p / np.maximum(q, 1e-12))).sum())


METHODS: dict[str, Callable[[Floats], float]] = {
    "max": lambda x: float(np.abs(x).max()),
    **{f"{100 * share:g} %": functools.partial(below, share) for share in (0.9999, 0.999)},
    "entropy": entropy,
    "square": clipping_bound,
}
"""The largest magnitude that is not cut off, from sampled inputs [R, K]."""


@script
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("catalog", type=Path)
    parser.add_argument("--slates", type=int, default=100)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    bundle, catalog = Bundle.open(args.bundle, "cpu-fp32"), Catalog.open(args.catalog)
    segments, limit, vectors = bundle.variant.segments, bundle.variant.max_tokens, bundle.vectors()
    exact = Chain(bundle.folder, segments, limit, vectors)
    prompts, int8 = Prompts.draw(catalog, args.slates), find_target("tensorrt", "int8")
    assert int8.gate is not None
    expected, found = prompts.log_odds(exact), {}

    rows = activations.sample(exact, activations.draw_for_scales(catalog))
    ways: dict[str, tuple[Pass, ...]] = {"as exported": (smooth_for_fixed_scales, quantize_dequantize_int8)}
    for name, bound in METHODS.items():
        everywhere = functools.partial(quantize_dequantize_int8, bound=bound, most_lost=np.inf)
        ways |= {name: (everywhere,), f"{name}, smoothed": (smooth_for_fixed_scales, everywhere)}
    for name, passes in ways.items():
        target = replace(int8, passes=(fold_linear_weights, *passes), hidden_dtype="float32", cache_dtype="float32")
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            made = [derive_segment(one, exact.folder, target, place, seen) for one, seen in zip(segments, rows, strict=True)]
            log_odds = prompts.log_odds(Chain(place, made, limit, vectors))
        found[name] = assess(prompts, bundle.manifest.exits, int8.gate, expected, log_odds)
        print(f"{name}: {[round(row.correlation, 5) for row in found[name].exits]}", file=sys.stderr)
    print(json.dumps({name: one.to_json() for name, one in found.items()}, indent=2)) if args.json else show(found, prompts)


def show(found: dict[str, Quality], prompts: Prompts) -> None:
    first = next(iter(found.values()))
    table = Table("scale", *(f"{row.layers} layers" for row in first.exits), "KL, last", "AUC, last: change", box=MARKDOWN)
    for name, one in found.items():
        last, change = one.exits[-1], one.exits[-1].auc_change
        told = "" if change is None else f"{change[0]:+.4f} to {change[1]:+.4f}"
        table.add_row(name, *(f"{row.correlation:.4f}" for row in one.exits), f"{last.kl:.1e}", told)
    console = Console(width=160)
    console.print(f"correlation with float32 on {len(prompts.liked)} pairs of {prompts}")
    console.print(table)


if __name__ == "__main__":
    main()
