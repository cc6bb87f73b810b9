"""Options that several commands have, and what they stand for: bundles, columns, requests. What help says of a request's field is
from `Request`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rexit.doors.cli.common.output import say
from rexit.errors import InputError
from rexit.format.ids import parse_id, parse_ids, parse_recent
from rexit.format.request import Request, summaries

if TYPE_CHECKING:
    from rexit.format.bundle import Bundle, Catalog
    from rexit.format.bundle.inputs import Inputs, Value

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]

VariantOption = Annotated[str | None, typer.Option(help="The variant. Default: the first with a policy, or the first.")]

DeviceOption = Annotated[str | None, typer.Option(help="cpu, cuda or tensorrt. Default: the variant's own.")]

ThreadsOption = Annotated[int, typer.Option(help="Threads of the backend; 0: one per core.")]

CatalogOption = Annotated[Path | None, typer.Option(help="The catalog folder of `rexit index`.")]

SlatesOption = Annotated[
    Path | None,
    typer.Option(help="Prompts in place of a catalog, with split `train` if trained on."),
]

RerankerOption = Annotated[
    str | None, typer.Option(help="qwen3-reranker, mxbai-rerank-v2, a JSON file; ids of `no` and `yes`, as 2152,9693.")
]

SUMMARIES = summaries()
ITEMS = f"{SUMMARIES['items']} Commas between, quoted as in CSV."

AsOfOption = Annotated[str | None, typer.Option(help=f"{SUMMARIES['as_of']} A number, date or time.")]
InputOption = Annotated[list[str] | None, typer.Option("--input", help=f"NAME=VALUE. {SUMMARIES['inputs']}")]


def check_one_source(catalog: Path | None, slates: Path | None) -> None:
    """Raises InputError unless one of --catalog and --slates is given."""
    if (catalog is None) == (slates is None):
        options = "neither --catalog nor" if catalog is None else "both --catalog and"
        raise InputError(f"{options} --slates given, expected one of them")


def answers_of(reranker: str | None, catalog: Path | None = None) -> dict[str, Any]:
    """What --reranker says as options: `reranker`, or `label_ids` of `no` and `yes`. Raises InputError."""
    if reranker is None or not re.fullmatch(r"[\d,\s]+", reranker):
        return {"reranker": reranker}
    ids = [int(part) for part in reranker.split(",") if part.strip()]
    if len(ids) != 2:
        raise InputError(f"--reranker {reranker}: expected two token ids, of `no` and of `yes`, e.g. 2152,9693")
    if catalog is not None:
        raise InputError(f"--reranker {reranker}: token ids are for --slates: a catalog has its labels")
    return {"label_ids": tuple(ids)}


def open_bundle(path: Path, variant: str | None) -> Bundle:
    """Opens a variant, as `Bundle.open` does. Says on stderr which one it is if there was a choice."""
    from rexit.format.bundle import Bundle

    bundle = Bundle.open(path, variant)
    name, names = bundle.variant.name, bundle.manifest.variants
    if variant is None and len(names) > 1:
        reason = "the first, none has a policy" if bundle.policy_sha256 is None else "the first with a policy"
        say(f"rexit: variant {name}, {reason}; there are: {', '.join(names)} (--variant)")
    return bundle


def parse_named(entries: Sequence[str] | None, option: str, example: str) -> dict[str, str]:
    """Returns the values of an option by name. Raises InputError for another form than NAME=VALUE, or a name that comes twice."""
    values: dict[str, str] = {}
    for entry in entries or ():
        name, equals, value = entry.partition("=")
        if not (name and equals):
            raise InputError(f"{option} {entry!r}, expected NAME=VALUE, as in {example}")
        if name in values:
            raise InputError(f"{option} {name}: given twice, expected once")
        values[name] = value
    return values


def parse_columns(entries: Sequence[str] | None, roles: Iterable[str]) -> dict[str, str]:
    """Returns the columns of `--column ROLE=NAME` by role. Raises InputError, as `parse_named` does, and for an unknown role."""
    known = list(roles)
    columns = parse_named(entries, "--column", f"{known[0]}=name_in_the_file")
    for role, name in columns.items():
        if role not in known:
            raise InputError(f"--column {role}={name}: no role {role!r}, expected one of {', '.join(known)}")
    return columns


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
    scores: Sequence[str] | None = None,
    retrieve: int | None = None,
) -> Request:
    """Returns the request of --user, --items or --retrieve, --recent, --as-of, --input and --scores. Says on stderr if no
    interaction, or every one, is before --as-of. Raises InputError, also for an item that the catalog does not have."""
    kinds = catalog.info["ids"]
    user_id = parse_id(user, kinds["user"], "user")
    item_ids = None if items is None else parse_ids(items, kinds["item"], "item")
    interactions = parse_recent(recent, kinds["item"])
    catalog.items.rows([*(item_ids or ()), *(item for item, _ in interactions)])
    values = parse_inputs(inputs, catalog.inputs)
    from rexit.data.slates_file import parse_scores

    numbers: dict[str, list[float]] = {}
    for name, text in parse_named(scores, "--scores", "bm25=7.1,,0.3").items():
        numbers[name] = parse_scores((score.strip() or None for score in text.split(",")), f"--scores {name}")
    time = parse_as_of(as_of, catalog, warn=True)
    return Request(user_id, item_ids, retrieve, interactions or None, time, values, numbers or None)
