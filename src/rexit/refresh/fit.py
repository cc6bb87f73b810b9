"""Whether a catalog can replace a bundle's. For graphs, engines and callers only numbers may change."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rexit.bundle.catalog import Catalog, first_difference
from rexit.bundle.engine import Engine, engine_folders
from rexit.bundle.manifest import Manifest
from rexit.bundle.variant import Variant
from rexit.bundle.vectors import GCN
from rexit.errors import InputError


def check_fit(bundle: Path, manifest: Manifest, variants: Sequence[Variant], catalog: Catalog) -> None:
    """Raises InputError for the first thing that does not fit:

    1. Kinds of ids, the unit of times, the tokenizer, the labels, and the prompt program, by the tokens of its pieces.
    2. Where prompts have vectors: their tables, the widths of embeddings and of columns of vectors, and the embeddings' space,
       which is the only one that the projectors know.
    3. Limits: the longest prompts must fit the model, each variant's passes, and the engines compiled so far.
    """
    active = Catalog.open(bundle / manifest.catalog_folder)
    new, expected = catalog.info, active.info

    def same(what: str, a: Any, b: Any) -> None:
        if a != b:
            raise InputError(f"{catalog.path}: {what} {a}, that of {bundle} is {b}: nothing was swapped")

    for what in ("user", "item"):
        same(f"kind of {what} ids is", new["ids"][what], expected["ids"][what])
    same(
        "tokenizer is",
        *(f"{info['tokenizer']['sha256'][:12]}… ({info['tokenizer']['vocab_size']} tokens)" for info in (new, expected)),
    )
    catalog.roles.check(catalog.path, manifest.roles, bundle)
    same("labels are", new["labels"], expected["labels"])
    same("times are", catalog.timeline.kind, active.timeline.kind)
    if difference := first_difference(new["prompt"], catalog.piece_table, expected["prompt"], active.piece_table):
        raise InputError(f"{catalog.path}: another prompt program than that of {bundle}: {difference}: nothing was swapped")
    if (ids := active.vector_ids) is not None:
        same("vectors of prompts are", new["prompt"].get("vectors", []), expected["prompt"].get("vectors", []))
        same("embeddings' width is", new["embedding"]["dim"], expected["embedding"]["dim"])
        if (ids.user or GCN in ids.tables) and catalog.space != active.space:
            raise InputError(
                f"{catalog.path}: its embeddings are of another training than those that the projectors "
                "learned: make it by `rexit index --from`; nothing was swapped"
            )
    _check_limits(bundle, manifest, variants, catalog)


def _check_limits(bundle: Path, manifest: Manifest, variants: Sequence[Variant], catalog: Catalog) -> None:
    prefix, candidate = (int(catalog.info["prompt"][f"max_{part}_tokens"]) for part in ("prefix", "candidate"))

    def at_most(what: str, tokens: int, limit: int, whose: str) -> None:
        if tokens > limit:
            raise InputError(f"{catalog.path}: {what} of up to {tokens} tokens, {whose} takes {limit}: nothing was swapped")

    at_most("prompts", prefix + candidate, manifest.model.max_positions, "the model")
    for variant in variants:
        at_most("candidates", candidate, variant.max_tokens, f"a pass of {variant.name}")
        for folder in engine_folders(bundle / "variants" / variant.name):
            for segment in Engine.read(folder).segments:
                # A pass without a prefix has one row of padding, so the first profile that takes one row computes the prefix.
                computed = next((profile.tokens[2] for profile in segment.profiles if profile.prefix[0] == 1), 0)
                longest = min(computed, max((profile.prefix[2] for profile in segment.profiles), default=0))
                at_most("prefixes", prefix, longest, f"engine {variant.name}/{folder.name}")
