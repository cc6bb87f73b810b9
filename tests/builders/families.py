"""What becomes of each decoder family in a whole export: a small random model of it, measured."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

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


def measure_all(compiled: Iterable[str], others: Iterable[str], catalog: Path, place: Path) -> dict[str, Measured]:
    """By family; those `compiled` have two exits and go through TensorRT-RTX, too. Two processes: tracing takes one core."""
    asked = {**dict.fromkeys(compiled, True), **dict.fromkeys(others, False)}
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        found = pool.map(partial(_measure, catalog=catalog, place=place), asked, asked.values())
        return dict(zip(asked, found, strict=True))


def _measure(family: str, engines: bool, catalog: Path, place: Path) -> Measured:
    import numpy as np
    import onnx
    import torch

    import rexit
    from builders.checkpoints import tiny_checkpoint
    from rexit.bundle import Bundle, Catalog
    from rexit.exporter.export import export_bundle
    from rexit.exporter.options import ExportOptions

    torch.set_num_threads(1)
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
    users, items = exact.catalog.users, exact.catalog.items
    with rexit.open(out, variant="cpu-fp32") as session:
        runtime = max(
            float(np.abs(session.trace(users.id(one.user), items.take(one.items), as_of=one.as_of) - one.log_odds).max())
            for one in exact.golden().slates
        )
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
    from builders.checkpoints import tiny_checkpoint
    from rexit.bundle import Catalog
    from rexit.exporter.compile import compile_engines
    from rexit.exporter.export import export_bundle
    from rexit.exporter.options import ExportOptions

    checkpoint = tiny_checkpoint(place / family / "whole", (DEPTH,), family, Catalog.open(catalog), num_hidden_layers=DEPTH)
    out = place / family / "engines"
    options = ExportOptions(target="tensorrt", precisions=ENGINES, golden_slates=1, quality_slates=4, accept_loss=True)
    export_bundle(checkpoint, catalog, out, options)
    report = compile_engines(out, compute_capability=CAPABILITY)
    return {precision: variant.segments[0].summary for precision, variant in zip(ENGINES, report.variants, strict=True)}
