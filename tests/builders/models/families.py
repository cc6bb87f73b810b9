"""What becomes of each decoder family in a whole export: a small random model of it, measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

import rexit
from builders.models.checkpoints import tiny_checkpoint
from rexit.bundle import Bundle, Catalog
from rexit.checks.golden import slate_of
from rexit.exporter.engine.compile import compile_engines
from rexit.exporter.export import export_bundle
from rexit.exporter.options import ExportOptions

DEPTH = 2
CAPABILITY = "8.6"
ENGINES = ("fp16", "int8")


@dataclass(frozen=True)
class Measured:
    """parity: the largest |difference of log-odds| of cpu-fp32 from PyTorch's, by exit and mode, as in variant.json; runtime: the
    same of the C++ library, at any exit. correlation: the least of any exit of cpu-int8 with cpu-fp32. attention: operators of
    cpu-fp32. engines: what TensorRT-RTX made of the one segment, by precision; empty if it was not asked.
    """

    unrotated: str | None
    parity: tuple[dict[str, float], ...]
    runtime: float
    correlation: float
    attention: frozenset[str]
    engines: dict[str, dict[str, int]]


def measure(family: str, engines: bool, catalog: Path, place: Path) -> Measured:
    """A small random model of the family, exported below `place`. engines: with two exits, and compiled by TensorRT-RTX."""
    # One exit where there is one: torch takes most of the time, once for each segment.
    exits = (1, DEPTH) if engines else (DEPTH,)
    checkpoint = tiny_checkpoint(place / family / "checkpoint", exits, family, Catalog.open(catalog), num_hidden_layers=DEPTH)
    out = place / family / "bundle"
    # Random models: some lose more than a trained one may.
    options = ExportOptions(precisions=["fp32", "int8"], golden_slates=2, quality_slates=10, accept_loss=True)
    export_bundle(checkpoint, catalog, out, options)
    exact, rounded = (Bundle.open(out, f"cpu-{precision}") for precision in ("fp32", "int8"))
    graphs = [onnx.load(exact.folder / segment.graph, load_external_data=False).graph for segment in exact.variant.segments]
    assert rounded.variant.quality is not None
    with rexit.open(out, variant="cpu-fp32") as session:
        runtime = 0.0
        for slate in exact.golden().slates:
            traced = session.trace(slate_of(exact.catalog, slate).request)
            runtime = max(runtime, float(np.abs(traced - slate.log_odds).max()))
    return Measured(
        exact.variant.unrotated,
        tuple({mode: row[mode] for mode in ("single", "cached", "slate")} for row in exact.variant.parity["exits"]),
        runtime,
        min(row["correlation"] for row in rounded.variant.quality["exits"]),
        frozenset(node.op_type for graph in graphs for node in graph.node if node.op_type.endswith("Attention")),
        _compiled(family, catalog, place) if engines else {},
    )


def _compiled(family: str, catalog: Path, place: Path) -> dict[str, dict[str, int]]:
    """One segment: with each more, torch traces and TensorRT-RTX compiles once more."""
    checkpoint = tiny_checkpoint(place / family / "whole", (DEPTH,), family, Catalog.open(catalog), num_hidden_layers=DEPTH)
    out = place / family / "engines"
    options = ExportOptions(target="tensorrt", precisions=ENGINES, golden_slates=1, quality_slates=4, accept_loss=True)
    export_bundle(checkpoint, catalog, out, options)
    report = compile_engines(out, compute_capability=CAPABILITY)
    return {precision: variant.segments[0].summary for precision, variant in zip(ENGINES, report.variants, strict=True)}
