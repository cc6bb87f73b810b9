"""`rexit compile`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rexit.cli.common.options import JsonOption
from rexit.cli.common.output import print_json, progress
from rexit.cli.show.engines import print_engines


# Long because typer takes the options, their defaults and their help from the signature.
def compile_variants(
    bundle: Annotated[Path, typer.Argument(help="The bundle that `rexit export --target tensorrt` wrote.")],
    variant: Annotated[list[str] | None, typer.Option(help="A TensorRT variant, or several. Default: all.")] = None,
    compute_capability: Annotated[
        str | None,
        typer.Option(help="Of the GPU, e.g. 8.6: needs TensorRT-RTX, but no GPU."),
    ] = None,
    builder: Annotated[
        str | None,
        typer.Option(help="tensorrt or tensorrt_rtx. Default: the first that can build."),
    ] = None,
    python: Annotated[
        str | None,
        typer.Option(help="A Python with TensorRT's bindings. Default: this or the system's."),
    ] = None,
    workspace: Annotated[
        int | None,
        typer.Option(min=1, help="Most MiB of scratch memory. Default: the GPU's."),
    ] = None,
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
            builder=builder,
            python=python,
            workspace_bytes=None if workspace is None else workspace << 20,
            force=force,
            progress=lambda what, done, total: bar.update(task, description=what, completed=done, total=total),
        )
    if as_json:
        print_json(report.to_json())
    else:
        print_engines(report)
