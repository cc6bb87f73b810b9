"""`--request NAME=TEXT`: the request texts of a prompt, as the command line takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from rexit.errors import InputError

if TYPE_CHECKING:
    from rexit.bundle.request_text import RequestTexts, Text

RequestOption = Annotated[
    list[str] | None,
    typer.Option(help="The text of `{request.NAME}` in the prompt template, as NAME=TEXT; once for each name."),
]
RequestTokensOption = Annotated[
    list[str] | None,
    typer.Option(help="The same as token ids, NAME=1,2,3: needs no tokenizer in the bundle."),
]


def parse_request(texts: Sequence[str] | None, tokens: Sequence[str] | None, known: RequestTexts) -> dict[str, Text]:
    """Returns the values of both options by name. Raises InputError for another form, a name that comes twice, or one that
    prompts do not place."""
    values: dict[str, Text] = {}
    for option, entries in (("--request", texts), ("--request-tokens", tokens)):
        for entry in entries or ():
            name, value = split_name(entry, option, "query=red shoes" if option == "--request" else "query=17,4,9")
            if name in values:
                raise InputError(f"{option} {name}: given twice, expected once")
            values[name] = value if option == "--request" else token_ids(value, f"{option} {name}")
    known.check_names(values)
    return values


def parse_columns(columns: Sequence[str] | None, known: RequestTexts) -> dict[str, str]:
    """Returns the columns of `--request-column` by name. Raises InputError, as `parse_request` does."""
    named: dict[str, str] = {}
    for entry in columns or ():
        name, column = split_name(entry, "--request-column", "query=search")
        if name in named:
            raise InputError(f"--request-column {name}: given twice, expected once")
        named[name] = column
    known.check_names(named)
    return named


def split_name(entry: str, option: str, example: str) -> tuple[str, str]:
    """Returns name and value of an option NAME=VALUE. Raises InputError for another form."""
    name, equals, value = entry.partition("=")
    if not (name and equals):
        raise InputError(f"{option} {entry!r}, expected NAME=VALUE, as in {example}")
    return name, value


def token_ids(text: str, what: str) -> list[int]:
    """Returns the token ids of a text with commas. Raises InputError, which names it as `what`."""
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError as exc:
        raise InputError(f"{what} is {text!r}, expected token ids separated by commas") from exc
