"""What int8 loses and what each step saves: every exit's log-odds against float32's, with all steps and with one left out.

    python benchmarks/quantization/int8_quality.py [--slates 24] [--work build/bench/slate]

On the bundle of benchmarks/speed/slate.py (SmolLM2-135M-Instruct, not fine-tuned, six exits): slates of 20 random candidates
of 12 tokens behind prefixes of 200, through Python's ONNX Runtime. No step has sampled any of them.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from rexit.bundle import Bundle, Catalog
from rexit.exporter.graph import activations
from rexit.exporter.graph.chain import Chain
from rexit.exporter.graph.precision.linear import SAMPLE
from rexit.exporter.graph.precision.quantize_linear_int8 import quantize_linear_int8
from rexit.exporter.graph.precision.smooth_linear_inputs import smooth_linear_inputs
from rexit.exporter.graph.targets import Pass, find_target
from rexit.exporter.graph.trace import derive_segment
from rexit.exporter.prompt.builder import Prompt, PromptBuilder
from rexit.scripts import script

CANDIDATES, LATEST = 20, 1 << 40


def draw(catalog: Catalog, count: int) -> list[Prompt]:
    """Random slates for the users with the shorter prefix, the same in every run."""
    random, builder = np.random.default_rng(77), PromptBuilder(catalog)
    users, items = (len(table) for table in (catalog.users, catalog.items))
    return [
        builder.prompt_rows(int(random.choice(range(0, users, 2))), random.choice(items, CANDIDATES, replace=False), as_of=LATEST)
        for _ in range(count)
    ]


def log_odds(chain: Chain, slates: list[Prompt]) -> NDArray[np.float32]:
    return np.concatenate([chain.slate(slate.prefix, slate.candidates) for slate in slates], dtype=np.float32)


def to_the_nearest(model: ir.Model) -> ir.Model:
    """The pass that quantizes linear layers, without a sample to round their weights by."""
    for node in model.graph:
        for value in node.outputs:
            value.meta.pop(SAMPLE, None)
    return quantize_linear_int8(model)


def show(name: str, depths: list[int], expected: NDArray[np.float32], found: NDArray[np.float32]) -> None:
    print(f"\n{name}, {len(found)} pairs\n| exit after layer | correlation | mean difference | largest |\n|---|---|---|---|")
    for k, depth in enumerate(depths):
        difference = np.abs(found[:, k] - expected[:, k])
        correlation = np.corrcoef(found[:, k], expected[:, k])[0, 1]
        print(f"| {depth} | {correlation:.4f} | {difference.mean():.2f} | {difference.max():.1f} |", flush=True)


@script
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/bench/slate"))
    parser.add_argument("--slates", type=int, default=24)
    args = parser.parse_args()
    opened, catalog = Bundle.open(args.work / "bundle", "cpu-fp32"), Catalog.open(args.work / "catalog")
    segments, limit = opened.variant.segments, opened.variant.max_tokens
    depths = [segment.layers[1] for segment in segments]
    slates, exact = draw(catalog, args.slates), Chain(opened.folder, segments, limit)
    expected = log_odds(exact, slates)
    exported = Bundle.open(args.work / "bundle", "cpu-int8")
    show("as exported", depths, expected, log_odds(Chain(exported.folder, exported.variant.segments, limit), slates))
    rows = activations.sample(exact, activations.draw(catalog))
    int8 = find_target("cpu", "int8")
    instead: dict[str, tuple[Pass, ...]] = {
        "weights rounded to the nearest": tuple(to_the_nearest if one is quantize_linear_int8 else one for one in int8.passes),
        "not smoothed": tuple(one for one in int8.passes if one is not smooth_linear_inputs),
    }
    for name, passes in instead.items():
        with tempfile.TemporaryDirectory() as folder:
            place, target = Path(folder), replace(int8, passes=passes)
            made = [
                derive_segment(segment, opened.folder, target, place, seen) for segment, seen in zip(segments, rows, strict=True)
            ]
            show(name, depths, expected, log_odds(Chain(place, made, limit), slates))


if __name__ == "__main__":
    main()
