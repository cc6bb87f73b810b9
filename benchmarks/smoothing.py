"""What smoothing does for int8: each exit's log-odds against float32's, with and without it.

    python benchmarks/smoothing.py [--slates 24] [--work build/bench/slate]

On the bundle that benchmarks/slate.py exports (SmolLM2-135M-Instruct, not fine-tuned, six exits): slates of 20 random candidates
of 12 tokens behind prefixes of 200, through Python's ONNX Runtime. Smoothing has sampled none of them.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rexit.bundle import Bundle, Catalog
from rexit.exporter.graph import activations
from rexit.exporter.graph.chain import Chain
from rexit.exporter.graph.precision.smooth_linear_inputs import smooth_linear_inputs
from rexit.exporter.graph.targets import find_target
from rexit.exporter.graph.trace import derive_segment
from rexit.exporter.prompt.builder import Prompt, PromptBuilder

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/bench/slate"))
    parser.add_argument("--slates", type=int, default=24)
    args = parser.parse_args()
    opened, catalog = Bundle.open(args.work / "bundle", "cpu-fp32"), Catalog.open(args.work / "catalog")
    segments, int8 = opened.variant.segments, find_target("cpu", "int8")
    slates = draw(catalog, args.slates)
    limit = opened.variant.max_tokens
    exact = Chain(opened.folder, segments, limit)
    expected = log_odds(exact, slates)
    rows = activations.sample(exact, activations.draw(catalog))
    plain = replace(int8, passes=tuple(one for one in int8.passes if one is not smooth_linear_inputs))
    for name, target in (("int8 as exported", int8), ("without smoothing", plain)):
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            made = [
                derive_segment(segment, opened.folder, target, place, seen) for segment, seen in zip(segments, rows, strict=True)
            ]
            found = log_odds(Chain(place, made, limit), slates)
        print(f"\n{name}, {len(found)} pairs\n| exit after layer | correlation | mean difference | largest |\n|---|---|---|---|")
        for k, segment in enumerate(segments):
            difference = np.abs(found[:, k] - expected[:, k])
            correlation = np.corrcoef(found[:, k], expected[:, k])[0, 1]
            print(f"| {segment.layers[1]} | {correlation:.4f} | {difference.mean():.2f} | {difference.max():.1f} |")


if __name__ == "__main__":
    main()
