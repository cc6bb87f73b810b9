"""`rexit inspect`."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rexit.cli.common.as_of import AsOfOption
from rexit.cli.common.named import InputOption
from rexit.cli.common.options import JsonOption
from rexit.cli.common.output import print_json
from rexit.cli.common.slate import parse_request
from rexit.cli.show.description import print_description
from rexit.cli.show.prompt import print_prompt
from rexit.errors import InputError

if TYPE_CHECKING:
    from rexit.bundle import Bundle
    from rexit.request import Request

_PROMPT = "The prompt of a slate"


def inspect(
    path: Annotated[Path, typer.Argument(help="A bundle or a tar archive of one, a catalog, or a policy.json.")],
    user: Annotated[str | None, typer.Option(help="User id.", rich_help_panel=_PROMPT)] = None,
    items: Annotated[
        str | None,
        typer.Option(
            "--items",
            "--item",
            help="Item ids, separated by commas; quotes around an id keep its commas.",
            rich_help_panel=_PROMPT,
        ),
    ] = None,
    as_of: AsOfOption = None,
    inputs: InputOption = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(help="The model's folder with tokenizer.json: show prompts as text, too.", rich_help_panel=_PROMPT),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Show what a bundle, a catalog or a policy holds. Runs no model.

    ```
    rexit inspect bundle
    rexit inspect catalog --json
    rexit inspect bundle.tar
    rexit inspect bundle --user 196 --items 242,302 --tokenizer SmolLM2-135M
    ```
    """
    from rexit.bundle.archive import unpacked

    if user is not None or items is not None:
        if user is None or items is None:
            raise InputError("a prompt needs both --user and --items")
        with unpacked(path) as folder:
            bundle = _open(folder)
            prompt = _prompt(bundle, parse_request(bundle.catalog, user, items, as_of=as_of, inputs=inputs), tokenizer)
        if json:
            print_json(prompt)
        else:
            print_prompt(prompt)
        return
    for_prompts = {"--as-of": as_of, "--input": inputs or None, "--tokenizer": tokenizer}
    if ignored := [option for option, value in for_prompts.items() if value is not None]:
        raise InputError(f"{' and '.join(ignored)}: only for a prompt, which needs --user and --items")
    from rexit.bundle.describe import describe

    with unpacked(path) as folder:
        description = {**describe(folder), "path": str(path)}
    if json:
        print_json(description)
    else:
        print_description(description)


def _open(path: Path) -> Bundle:
    from rexit.bundle import Bundle

    if not (path / "manifest.json").is_file():
        raise InputError(f"{path}: is not a bundle; prompts are assembled by the runtime, from a bundle")
    return Bundle.open(path)


def _prompt(bundle: Bundle, request: Request, tokenizer: Path | None) -> dict[str, Any]:
    """Returns the prompt as the runtime assembles it, with the code that scores."""
    from rexit import runtime
    from rexit.bundle.catalog.prompt_text import decoder

    decode = decoder(tokenizer, bundle.catalog.vector_ids) if tokenizer is not None else None
    with contextlib.closing(runtime.open(bundle.path, bundle.variant.name, device="cpu")) as session:
        prefix, candidates = session.prompt(request)

    def part(tokens: Any) -> dict[str, Any]:
        ids = [int(token) for token in tokens]
        return {"tokens": ids, **({"text": decode(ids)} if decode else {})}

    entries = [{"item": item, **part(tokens)} for item, tokens in zip(request.items, candidates, strict=True)]
    return {"kind": "prompt", "user": request.user, "prefix": part(prefix), "candidates": entries}
