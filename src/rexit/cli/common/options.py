"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]

VariantOption = Annotated[str | None, typer.Option(help="The variant. Default: the bundle's first.")]

DeviceOption = Annotated[
    str | None, typer.Option(help="cpu, cuda or tensorrt. Default: the variant's own. The CPU runs every variant's graphs.")
]

ThreadsOption = Annotated[int, typer.Option(help="Threads of the backend; 0: one per core.")]
