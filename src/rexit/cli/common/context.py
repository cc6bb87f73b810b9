"""`--context NAME=VALUE`: what a request says of its moment, as the command line takes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from rexit.errors import InputError

if TYPE_CHECKING:
    from rexit.bundle.context import Contexts, Value

ContextOption = Annotated[
    list[str] | None,
    typer.Option(help="The value of `{context.NAME}` in the prompt template, as NAME=VALUE; once for each name."),
]


def parse_context(texts: Sequence[str] | None, contexts: Contexts, option: str = "--context") -> dict[str, Value]:
    """The values of an option NAME=VALUE by name. Raises InputError for another form, a name that comes twice, or one that
    prompts do not place."""
    values: dict[str, Value] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise InputError(f"{option} {text!r}, expected NAME=VALUE, as in device=tv")
        if name in values:
            raise InputError(f"{option} {name}: given twice, expected once")
        values[name] = value
    contexts.check_names(values)
    return values
