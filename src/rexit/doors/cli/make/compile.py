"""`rexit compile`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rexit.doors.cli.common.arguments import JsonOption
from rexit.doors.cli.common.output import print_json, print_table, progress, say, stdout

if TYPE_CHECKING:
    from rexit.exporter.engine.compile import CompileReport, VariantBuild


# Long because typer takes the options, their defaults and their help from the signature.
def compile_variants(
    bundle: Annotated[Path, typer.Argument(help="The bundle that `rexit export --target tensorrt` wrote.")],
    variant: Annotated[list[str] | None, typer.Option(help="A TensorRT variant, or several. Default: all.")] = None,
    compute_capability: Annotated[str | None, typer.Option(help="Of the GPU, e.g. 8.6: needs TensorRT-RTX, but no GPU.")] = None,
    python: Annotated[str | None, typer.Option(help="A Python with TensorRT's bindings. Default: this or the system's.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Rebuild engines that are up to date, too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Build TensorRT engines for a bundle's variants.

    An engine only works with the GPU and the compiler version it was built for, so run this on the device. TensorRT-RTX compiles
    on any machine. Engines are reused as long as graphs, sizes and compiler stay the same.

    ```
    rexit compile bundle --variant tensorrt-fp16 --python /usr/bin/python3
    rexit compile bundle --compute-capability 8.6
    ```
    """
    from rexit.exporter.engine.compile import compile_engines

    with progress() as bar:
        task = bar.add_task("", total=None)
        report = compile_engines(
            bundle,
            variant or (),
            compute_capability=compute_capability,
            python=python,
            force=force,
            progress=lambda what, done, total: bar.update(task, description=what, completed=done, total=total),
        )
    if as_json:
        print_json(report.to_json())
    else:
        _print_report(report)


def _print_report(report: CompileReport) -> None:
    """Prints a table for each variant, and what the engines are for."""
    for build in report.variants:
        _print_variant(build)
    name = f"compute capability {report.compute_capability}"
    where = f"{name}, without a GPU: compiled, not run" if report.gpu is None else f"{report.gpu}, {name}"
    stdout.print(f"{report.builder} {report.version} for {where}")


def _print_variant(build: VariantBuild) -> None:
    if build.up_to_date:
        stdout.print(f"{build.folder}: up to date, {build.bytes / 1e6:.1f} MB")
        return
    kinds = sorted(
        {kind for segment in build.segments for kind in segment.summary}, key=lambda kind: (kind.endswith(" gemm"), kind)
    )
    print_table(
        f"Variant {build.variant}: engines/{build.key}, {build.bytes / 1e6:.1f} MB",
        [
            {
                "layers": f"{segment.layers[0]}-{segment.layers[1]}",
                "engine layers": segment.engine_layers,
                **{kind.replace("_", " "): segment.summary.get(kind, 0) for kind in kinds},
                "MB": f"{segment.bytes / 1e6:.1f}",
                "seconds": f"{segment.seconds:.1f}",
                "peak MB": "-" if segment.peak_bytes is None else f"{segment.peak_bytes / 1e6:.0f}",
            }
            for segment in build.segments
        ],
    )
    for line in build.warnings:
        say(f"rexit: warning: {line}")
