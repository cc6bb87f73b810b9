"""The request of one slate, as `rexit score` and `rexit inspect` take it. What help says of a field is from `Request`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from rexit.cli.common.named import parse_named
from rexit.cli.common.output import say
from rexit.errors import InputError
from rexit.ids import parse_id, parse_ids, parse_recent
from rexit.request import summaries

if TYPE_CHECKING:
    from rexit.bundle import Catalog
    from rexit.bundle.input_kinds import Value
    from rexit.bundle.inputs import Inputs
    from rexit.request import Request

SUMMARIES = summaries()
ITEMS = f"{SUMMARIES['items']} Separated by commas, quoted as in CSV."

AsOfOption = Annotated[str | None, typer.Option(help=f"{SUMMARIES['as_of']} A number, date or time.")]
InputOption = Annotated[list[str] | None, typer.Option("--input", help=f"NAME=VALUE. {SUMMARIES['inputs']}")]


def parse_as_of(text: str | None, catalog: Catalog, warn: bool = False) -> int | None:
    """Returns the time of --as-of. warn: says on stderr if it is outside the catalog's interactions. Raises InputError."""
    if text is None:
        return None
    time = catalog.timeline.parse(text, "--as-of")
    if warn and (where := catalog.timeline.outside(time)):
        say(f"rexit: --as-of {where}")
    return time


def parse_inputs(entries: Sequence[str] | None, inputs: Inputs) -> dict[str, Value]:
    """Returns the values of `--input` by name. Raises InputError, as `parse_named` does, and for a name that the prompt does not
    have."""
    values: dict[str, Value] = {**parse_named(entries, "--input", "device=tv")}
    inputs.check_names(values)
    return values


def parse_request(
    catalog: Catalog,
    user: str,
    items: str | None,
    recent: str = "",
    as_of: str | None = None,
    inputs: Sequence[str] | None = None,
    scores: str = "",
    retrieve: int | None = None,
) -> Request:
    """Returns the request of --user, --items or --retrieve, --recent, --as-of, --input and --scores. Says on stderr if no
    interaction, or every one, is before --as-of. Raises InputError, also for an item that the catalog does not have."""
    from rexit.request import Request

    kinds = catalog.info["ids"]
    user_id = parse_id(user, kinds["user"], "user")
    item_ids = None if items is None else parse_ids(items, kinds["item"], "item")
    interactions = parse_recent(recent, kinds["item"])
    catalog.items.rows([*(item_ids or ()), *(item for item, _ in interactions)])
    values = parse_inputs(inputs, catalog.inputs)
    try:
        numbers = [float(score) for score in scores.split(",")] if scores else None
    except ValueError:
        raise InputError(f"--scores {scores}, expected numbers separated by commas") from None
    time = parse_as_of(as_of, catalog, warn=True)
    return Request(user_id, item_ids, retrieve, interactions or None, time, values, numbers)
