"""`rexit compile`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rexit.cli.common.options import JsonOption
from rexit.cli.common.output import print_json, progress, stderr, stdout
from rexit.cli.common.tables import print_table

if TYPE_CHECKING:
    from rexit.exporter.compile import CompileReport, VariantBuild


# Long because typer takes the options, their defaults and their help from the signature.
def compile_variants(
    bundle: Annotated[Path, typer.Argument(help="The bundle that `rexit export --target tensorrt` wrote.")],
    variant: Annotated[
        list[str] | None, typer.Option(help="A TensorRT variant; repeat the option for several. Default: all.")
    ] = None,
    compute_capability: Annotated[
        str | None,
        typer.Option(help="Build for GPUs of this compute capability, e.g. 8.6. Needs TensorRT-RTX, but no GPU."),
    ] = None,
    builder: Annotated[
        str | None,
        typer.Option(help="tensorrt or tensorrt_rtx. Default: the first installed compiler that can build for the GPU."),
    ] = None,
    python: Annotated[
        str | None,
        typer.Option(
            help="A Python (3.8 or newer) with TensorRT's bindings. Default: the Python that runs rexit, else the system's."
        ),
    ] = None,
    workspace: Annotated[
        int | None,
        typer.Option(min=1, help="Most MiB of scratch memory for the compiler. Default: what the GPU has."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Rebuild engines that are up to date, too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Build TensorRT engines for a bundle's variants.

    An engine only works with the GPU and the compiler version it was built for. So run this on the device, with its TensorRT:

    ```
    rexit compile bundle
    rexit compile bundle --variant tensorrt-fp16 --python /usr/bin/python3
    ```

    The second command uses the TensorRT of JetPack's own Python. TensorRT-RTX (`pip install 'rexit[tensorrt-rtx]'`) compiles on
    any machine for the GPUs it supports, none of which is a Jetson. Without a GPU the engines are compiled, not run:

    ```
    rexit compile bundle --compute-capability 8.6
    ```

    Each segment is built in a process of its own. Engines appear in the variant's folder `engines/`, whole or not at all. They
    are reused as long as the graphs, the sizes and the compiler stay the same.

    Next: `rexit verify bundle` runs them on this machine, `rexit calibrate bundle --catalog catalog` times their exits.
    """
    from rexit.exporter.compile import compile_engines

    with progress() as bar:
        task = bar.add_task("", total=None)
        report = compile_engines(
            bundle,
            variant or (),
            compute_capability=compute_capability,
            builder=builder,
            python=python,
            workspace_bytes=None if workspace is None else workspace << 20,
            force=force,
            progress=lambda what, done, total: bar.update(task, description=what, completed=done, total=total),
        )
    if as_json:
        print_json(report.to_json())
        return
    for build in report.variants:
        _print_variant(report, build)
    name = f"compute capability {report.compute_capability}"
    where = f"{name}, without a GPU: compiled, not run" if report.gpu is None else f"{report.gpu}, {name}"
    stdout.print(f"{report.builder} {report.version} for {where}", markup=False, soft_wrap=True)


def _print_variant(report: CompileReport, build: VariantBuild) -> None:
    if build.up_to_date:
        stdout.print(f"{build.folder}: up to date, {build.bytes / 1e6:.1f} MB", markup=False, soft_wrap=True)
        return
    kinds = sorted({kind for s in build.segments for kind in s.summary}, key=lambda kind: (kind.endswith(" gemm"), kind))
    print_table(
        f"Variant {build.variant}: engines/{build.key}, {build.bytes / 1e6:.1f} MB",
        ("layers", "engine layers", *(kind.replace("_", " ") for kind in kinds), "MB", "seconds", "peak MB"),
        (
            (
                f"{s.layers[0]}-{s.layers[1]}",
                s.engine_layers,
                *(s.summary.get(kind, 0) for kind in kinds),
                f"{s.bytes / 1e6:.1f}",
                f"{s.seconds:.1f}",
                "-" if s.peak_bytes is None else f"{s.peak_bytes / 1e6:.0f}",
            )
            for s in build.segments
        ),
    )
    for line in build.warnings:
        stderr.print(f"rexit: warning: {line}", markup=False, highlight=False, soft_wrap=True)
