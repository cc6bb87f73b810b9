"""Engines that `rexit compile` built."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rexit.cli.common.output import stderr, stdout
from rexit.cli.common.tables import print_table

if TYPE_CHECKING:
    from rexit.exporter.engine.compile import CompileReport, VariantBuild


def print_engines(report: CompileReport) -> None:
    """Prints a table for each variant, and what the engines are for."""
    for build in report.variants:
        _print_variant(build)
    name = f"compute capability {report.compute_capability}"
    where = f"{name}, without a GPU: compiled, not run" if report.gpu is None else f"{report.gpu}, {name}"
    stdout.print(f"{report.builder} {report.version} for {where}", markup=False, soft_wrap=True)


def _print_variant(build: VariantBuild) -> None:
    if build.up_to_date:
        stdout.print(f"{build.folder}: up to date, {build.bytes / 1e6:.1f} MB", markup=False, soft_wrap=True)
        return
    kinds = sorted(
        {kind for segment in build.segments for kind in segment.summary}, key=lambda kind: (kind.endswith(" gemm"), kind)
    )
    print_table(
        f"Variant {build.variant}: engines/{build.key}, {build.bytes / 1e6:.1f} MB",
        ("layers", "engine layers", *(kind.replace("_", " ") for kind in kinds), "MB", "seconds", "peak MB"),
        (
            (
                f"{segment.layers[0]}-{segment.layers[1]}",
                segment.engine_layers,
                *(segment.summary.get(kind, 0) for kind in kinds),
                f"{segment.bytes / 1e6:.1f}",
                f"{segment.seconds:.1f}",
                "-" if segment.peak_bytes is None else f"{segment.peak_bytes / 1e6:.0f}",
            )
            for segment in build.segments
        ),
    )
    for line in build.warnings:
        stderr.print(f"rexit: warning: {line}", markup=False, highlight=False, soft_wrap=True)
