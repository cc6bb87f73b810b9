"""A variant under construction: its graphs in a folder, and variant.json once they are judged."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rexit import bundle
from rexit.bundle import FileEntry, Golden, Model, Variant, Vectors
from rexit.bundle.golden import FILE as GOLDEN_FILE
from rexit.bundle.variant import Limits
from rexit.exporter.gate.judge import Judged
from rexit.exporter.graph.activations import Activations
from rexit.exporter.graph.chain import Chain
from rexit.exporter.graph.segment import SegmentModule
from rexit.exporter.graph.targets import Target
from rexit.exporter.graph.trace import derive_segment, export_segment


@dataclass(frozen=True)
class SegmentReport:
    """An exported segment: layers [begin, end), number of parameters, bytes of graph and weights, seconds of export."""

    layers: tuple[int, int]
    parameters: int
    bytes: int
    seconds: float


@dataclass(frozen=True)
class VariantReport:
    """An exported variant.

    parity: by exit, the largest difference of log-odds by mode, from PyTorch's or, with a `quality`, from the variant's own.
    quality, unrotated: as in variant.json. bytes: total size of its files.
    """

    name: str
    segments: tuple[SegmentReport, ...]
    parity: tuple[dict[str, float], ...]
    tolerance: float
    quality: dict[str, Any] | None
    bytes: int
    unrotated: str | None


@dataclass
class Draft:
    """The graphs for `target` in `folder`, which exists. on_segment: called after each segment."""

    target: Target
    folder: Path
    on_segment: Callable[[], None]
    segments: list[bundle.Segment] = field(default_factory=list)
    reports: list[SegmentReport] = field(default_factory=list)

    def trace(self, modules: Sequence[SegmentModule]) -> None:
        """Exports the segments. Raises CheckpointError."""
        for k, module in enumerate(modules):
            began = time.perf_counter()
            segment = export_segment(module, k, self.target, self.folder)
            self._add(segment, sum(p.numel() for p in module.parameters()), began)

    def derive(self, base: Draft, activations: Sequence[Activations]) -> None:
        """Derives the segments from the base's by the target's passes. Raises CheckpointError.

        activations: by segment, as in `derive_segment`."""
        for segment, report, rows in zip(base.segments, base.reports, activations, strict=True):
            began = time.perf_counter()
            derived = derive_segment(segment, base.folder, self.target, self.folder, rows)
            self._add(derived, report.parameters, began)

    def chain(self, max_tokens: int, vectors: Vectors | None) -> Chain:
        """Opens the graphs in ONNX Runtime. Raises BackendError."""
        return Chain(self.folder, self.segments, max_tokens, vectors)

    def write(
        self,
        judged: Judged,
        zero: Sequence[NDArray[np.float32]],
        exits: Sequence[int],
        model: Model,
        catalog_sha256: str | None,
        max_tokens: int,
        pairs: int,
        unrotated: str | None,
    ) -> VariantReport:
        """Writes variant.json and the golden samples next to the graphs.

        Args:
            judged: golden samples, parity and quality.
            zero: exit zero's log-odds of the golden slates' candidates, [n] each; empty: there is no exit zero.
            exits: depths in layers of the segments.
            model: the bundle's model.
            catalog_sha256: digest of the bundle's catalog; None if it has none.
            max_tokens: maximum number of candidate tokens in one pass.
            pairs: number of candidates that were also run one by one.
            unrotated: why the model could not be rotated; None if it was.
        """
        golden = judged.slates
        if zero:
            golden = [replace(s, log_odds=np.column_stack([z, s.log_odds])) for z, s in zip(zero, golden, strict=True)]
        Golden(golden).write(self.folder / GOLDEN_FILE)
        target = self.target
        Variant(
            name=target.variant,
            target=target.name,
            precision=target.precision,
            backend=target.backend,
            opset=target.opset,
            catalog_sha256=catalog_sha256,
            checkpoint_sha256=model.checkpoint_sha256,
            limits=Limits(max_tokens, model.max_positions),
            segments=tuple(self.segments),
            parity={
                "reference": "pytorch" if target.gate is None else "variant",
                "tolerance": judged.tolerance,
                "samples": pairs,
                "slates": len(judged.slates),
                "exits": [{"layers": depth, **row} for depth, row in zip(exits, judged.differences, strict=True)],
            },
            files={path.name: FileEntry.of(path) for path in sorted(self.folder.iterdir())},
            quality=judged.quality,
            unrotated=unrotated,
            past_padding=target.past_padding,
        ).write(self.folder)
        size = sum(path.stat().st_size for path in self.folder.iterdir())
        return VariantReport(
            target.variant, tuple(self.reports), tuple(judged.differences), judged.tolerance, judged.quality, size, unrotated
        )

    def _add(self, segment: bundle.Segment, parameters: int, began: float) -> None:
        size = sum((self.folder / name).stat().st_size for name in (segment.graph, segment.weights))
        self.segments.append(segment)
        self.reports.append(SegmentReport(segment.layers, parameters, size, time.perf_counter() - began))
        self.on_segment()
