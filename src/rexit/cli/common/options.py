"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

from rexit.errors import InputError

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]

VariantOption = Annotated[str | None, typer.Option(help="The variant. Default: the bundle's first.")]

DeviceOption = Annotated[
    str | None, typer.Option(help="cpu, cuda or tensorrt. Default: the variant's own. The CPU runs every variant's graphs.")
]

ThreadsOption = Annotated[int, typer.Option(help="Threads of the backend; 0: one per core.")]


def label_ids_of(text: str | None) -> tuple[int, int] | None:
    """Token ids of `no` and `yes`; None: not given. Raises InputError."""
    if text is None:
        return None
    try:
        no, yes = (int(part) for part in text.split(","))
    except ValueError as exc:
        raise InputError(f"label ids {text!r}: expected two token ids, of `no` and of `yes`, e.g. 2152,9693") from exc
    return no, yes
