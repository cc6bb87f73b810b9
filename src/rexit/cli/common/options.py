"""Options that several commands have, and what they stand for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rexit.cli.common.output import say
from rexit.errors import InputError

if TYPE_CHECKING:
    from rexit.bundle import Bundle

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]

VariantOption = Annotated[str | None, typer.Option(help="The variant. Default: the first with a policy, or the first.")]

DeviceOption = Annotated[str | None, typer.Option(help="cpu (any variant), cuda or tensorrt. Default: the variant's own.")]

ThreadsOption = Annotated[int, typer.Option(help="Threads of the backend; 0: one per core.")]

CatalogOption = Annotated[Path | None, typer.Option(help="The catalog folder of `rexit index`.")]

SlatesOption = Annotated[
    Path | None,
    typer.Option(help="Prompts in place of a catalog. What trained the model: split `train`."),
]

LabelIdsOption = Annotated[str | None, typer.Option(help="With --slates: ids of `no` and `yes`, e.g. 2152,9693.")]

RerankerOption = Annotated[str | None, typer.Option(help="qwen3-reranker, mxbai-rerank-v2 or a JSON file.")]


def check_one_source(catalog: Path | None, slates: Path | None) -> None:
    """Raises InputError unless one of --catalog and --slates is given."""
    if (catalog is None) == (slates is None):
        options = "neither --catalog nor" if catalog is None else "both --catalog and"
        raise InputError(f"{options} --slates given, expected one of them")


def label_ids_of(text: str | None) -> tuple[int, int] | None:
    """Token ids of `no` and `yes`; None: not given. Raises InputError."""
    if text is None:
        return None
    try:
        no, yes = (int(part) for part in text.split(","))
    except ValueError as exc:
        raise InputError(f"label ids {text!r}: expected two token ids, of `no` and of `yes`, e.g. 2152,9693") from exc
    return no, yes


def open_bundle(path: Path, variant: str | None) -> Bundle:
    """Opens a variant, as `Bundle.open` does. Says on stderr which one it is if there was a choice."""
    from rexit.bundle import Bundle

    bundle = Bundle.open(path, variant)
    name, names = bundle.variant.name, bundle.manifest.variants
    if variant is None and len(names) > 1:
        reason = "the first, none has a policy" if bundle.policy_sha256 is None else "the first with a policy"
        say(f"rexit: variant {name}, {reason}; there are: {', '.join(names)} (--variant)")
    return bundle
