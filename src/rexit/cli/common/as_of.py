"""`--as-of`: a moment, as the command line takes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from rexit.cli.common.output import stderr

if TYPE_CHECKING:
    from rexit.bundle import Catalog

AsOfOption = Annotated[
    str | None,
    typer.Option(help="Only interactions before this number, date or time."),
]


def parse_as_of(text: str | None, catalog: Catalog, warn: bool = False) -> int | None:
    """Returns the time of --as-of. warn: says on stderr if it is outside the catalog's interactions. Raises InputError."""
    if text is None:
        return None
    time = catalog.timeline.parse(text, "--as-of")
    if warn and (where := catalog.timeline.outside(time)):
        stderr.print(f"rexit: --as-of {where}", markup=False, soft_wrap=True)
    return time
