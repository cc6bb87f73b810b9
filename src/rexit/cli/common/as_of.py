"""`--as-of`: a moment, as the command line takes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from rexit.cli.common.output import stderr

if TYPE_CHECKING:
    from rexit.bundle import Catalog

AsOfOption = Annotated[
    str | None,
    typer.Option(
        help="Use only interactions before this time: a whole number in the catalog's unit or, if that is known, a date or time "
        "like 2024-03-01T18:30:00Z. Default: all."
    ),
]


def parse_as_of(text: str | None, catalog: Catalog, warn: bool = False) -> int | None:
    """The time that --as-of stands for. warn: says on stderr if it lies outside the catalog's interactions. Raises InputError."""
    if text is None:
        return None
    time = catalog.timeline.parse(text, "--as-of")
    if warn and (where := catalog.timeline.outside(time)):
        stderr.print(f"rexit: --as-of {where}", markup=False, soft_wrap=True)
    return time
