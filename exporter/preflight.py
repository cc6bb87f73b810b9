"""Checks of `rexit export` before any work; each raises InputError. Of prompts, what makes the longest possible one long."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rexit.data.slates_file import SlatesFile
from rexit.errors import BundleError, CheckpointError, InputError
from rexit.exporter.assembly import encoder_of
from rexit.exporter.checkpoints.checkpoint import EXITS, Checkpoint
from rexit.exporter.graph.targets import Target, find_target
from rexit.exporter.options import ExportOptions
from rexit.exporter.prompt.pieces import fingerprint, load_tokenizer
from rexit.exporter.prompt.program import Fields, Lengths, Op, longest, placeholder
from rexit.format.bundle import Catalog, FileEntry, Manifest, Model, RerankerPrompt
from rexit.format.bundle.manifest import TOKENIZER
from rexit.format.bundle.vectors import USER


def longest_part(catalog: Catalog, part: str) -> tuple[str, str]:
    """Returns what can append the most tokens to the part `prefix` or `candidate`, and the longest text of its column beside the
    99th percentile, with their tokens. The second is empty without a column, both for a part without ops."""
    lengths: Lengths = np.diff(catalog.piece_table["offsets"])
    fields = {**_fields("user", catalog.user_table), **_fields("item", catalog.item_table)}
    if not (ops := catalog.info["prompt"][part]):
        return "", ""
    op, tokens = longest(ops, lengths, fields, catalog.inputs.entries)
    inner = longest(op["entry"], lengths, fields)[0] if op.get("entry") else op
    return f"{placeholder(op) or 'text of the template'}: {tokens}", _longest_text(catalog, inner, lengths, fields)


def _longest_text(catalog: Catalog, op: Op, lengths: Lengths, fields: Fields) -> str:
    what = op["op"].removesuffix("_field")
    if what not in ("user", "item"):
        return ""
    cells = lengths[fields[f"{what}.{op['field']}"]]
    row, ids = int(cells.argmax()), catalog.users if what == "user" else catalog.items
    name, p99 = op["field"].removeprefix(" "), np.percentile(cells, 99, method="inverted_cdf")
    return f"{what}.{name} of {what} {ids.id(row)}: {cells[row]} (99 %: {p99})"


def _fields(what: str, table: Mapping[str, NDArray[Any]]) -> Fields:
    return {f"{what}.{name.removeprefix('field.')}": table[name] for name in table if name.startswith("field.")}


def chosen_targets(target: str, precisions: Sequence[str]) -> list[Target]:
    """The targets of the precisions."""
    chosen = [find_target(target, precision) for precision in precisions]
    if not chosen or len(set(precisions)) != len(chosen):
        raise InputError(f"precisions {', '.join(precisions) or 'none'}: expected at least one, and none twice")
    return chosen


def check_options(options: ExportOptions) -> None:
    """Every number is in its range."""
    if options.max_tokens < 1:
        raise InputError(f"max tokens is {options.max_tokens}, expected at least 1")
    if not options.tolerance > 0:
        raise InputError(f"tolerance is {options.tolerance}, expected a number above 0")
    if options.golden_slates < 1:
        raise InputError(f"{options.golden_slates} golden slates, expected at least 1: parity is measured on them")
    if options.quality_slates < 0:
        raise InputError(f"{options.quality_slates} slates to judge quality on, expected at least 1, or 0 for all")


def existing(out: Path) -> Manifest | None:
    """The manifest of the bundle at `out`; None if there is none. Only a bundle or an empty folder is replaced."""
    if not os.path.lexists(out):
        return None
    if (out / "manifest.json").is_file():
        return Manifest.read(out)
    if not out.is_dir() or any(out.iterdir()):
        raise InputError(f"{out}: exists and is not a bundle; it would be replaced, so choose another place")
    return None


def check_fit(checkpoint: Checkpoint, catalog: Catalog, max_tokens: int) -> None:
    """The catalog's tokens and prompts fit the model, and a candidate fits a pass."""
    decoder, info = checkpoint.decoder, catalog.info
    check_causal(checkpoint)
    vocabulary = int(info["tokenizer"]["vocab_size"])
    if vocabulary > decoder.vocab_size:
        raise InputError(f"the catalog's tokenizer has {vocabulary} tokens, the model's embeddings only {decoder.vocab_size}")
    prefix, candidate = (int(info["prompt"][name]) for name in ("max_prefix_tokens", "max_candidate_tokens"))
    if prefix + candidate > decoder.max_positions:
        mostly = ", ".join(filter(None, longest_part(catalog, "prefix" if prefix > candidate else "candidate")))
        raise InputError(
            f"prompts have up to {prefix} + {candidate} = {prefix + candidate} tokens (prefix + candidate), "
            f"the model takes {decoder.max_positions}; shorten the template's histories or limit its columns. Most of them may "
            f"come from {mostly}"
        )
    check_vectors(checkpoint, catalog)
    if candidate > max_tokens:
        raise InputError(f"a candidate has up to {candidate} tokens, more than the {max_tokens} of --max-tokens")


def check_causal(checkpoint: Checkpoint) -> None:
    """The model can read a catalog's prompts: it is a decoder."""
    if not checkpoint.decoder.causal:
        raise InputError(
            f"{checkpoint.path}: {checkpoint.decoder.family} is an encoder, which reads pairs of texts without a common prefix: "
            "use --slates"
        )


def check_one_source(catalog: Path | None, slates: Path | None) -> None:
    """There is a catalog or a file of slates."""
    if (catalog is None) == (slates is None):
        actual = "neither a catalog nor" if catalog is None else "both a catalog and"
        raise InputError(f"{actual} slates, expected one of them")
    if slates is not None and not Path(slates).is_file():
        raise InputError(f"{slates}: no such file")


def open_catalog(path: Path) -> Catalog:
    """Opens a catalog whose files are unedited. Raises BundleError."""
    catalog = Catalog.open(Path(path))
    if edited := catalog.edited():
        raise BundleError(edited[0])
    return catalog


def read_slates(path: Path, checkpoint: Checkpoint, max_tokens: int, labels: bool = False) -> SlatesFile:
    """A file of slates that fits the model; texts are tokenized with the checkpoint's tokenizer and prompt. labels: whether it
    must have them."""
    slates = SlatesFile.read(path, partial(encoder_of, checkpoint, max_tokens), labels=labels)
    check_slates_fit(checkpoint, slates, max_tokens)
    return slates


def labels_of(catalog: Catalog | None, label_ids: tuple[int, int] | None) -> dict[str, int] | None:
    """Token ids of `no` and `yes`, from the catalog or an option; None if the checkpoint has to name them."""
    if catalog is not None:
        return catalog.labels
    return dict(zip(("no", "yes"), label_ids, strict=True)) if label_ids else None


def check_slates_fit(checkpoint: Checkpoint, slates: SlatesFile, max_tokens: int) -> None:
    """The slates' tokens fit the model, and a candidate fits a pass."""
    if checkpoint.projectors is not None:
        raise InputError(
            f"{checkpoint.path}: was trained on prompts with vectors ({', '.join(checkpoint.projectors.kinds)}), which only a "
            "catalog has: export it with --catalog"
        )
    if not checkpoint.decoder.causal and (slate := next((slate for slate in slates.all_slates if len(slate.prefix)), None)):
        raise InputError(
            f"{slates.path}: group {slate.user!r}: has a prefix of {len(slate.prefix)} tokens, expected none: "
            f"{checkpoint.decoder.family} is an encoder, whose candidates are whole pairs; texts go with `query`"
        )
    slates.check_fits(checkpoint.decoder.vocab_size, checkpoint.decoder.max_positions, max_tokens)


def check_trained_on(checkpoint: Checkpoint, catalog: Catalog) -> None:
    """The checkpoint was trained on the catalog, or on one that the catalog is an update of."""
    if checkpoint.catalog is None:
        if (checkpoint.path / EXITS).is_file():
            raise InputError(
                f"{checkpoint.path}: {EXITS} has no `catalog`, which says whether it was trained on {catalog.path}: "
                "--accept-catalog goes on anyway"
            )
        return  # a decoder trained elsewhere
    names, traits = {"tokenizer": "tokenizer", "prompt": "prompt program", "space": "space of embeddings"}, catalog.traits
    if differs := [name for trait, name in names.items() if checkpoint.catalog[trait] != traits[trait]]:
        raise InputError(
            f"{checkpoint.path}: was trained on a catalog with another {' and another '.join(differs)} than {catalog.path}: use "
            "that catalog, or an update of it by `rexit index --from`; --accept-catalog goes on anyway"
        )


def check_vectors(checkpoint: Checkpoint, catalog: Catalog) -> None:
    """The checkpoint has a projector of the right size for each kind of vector in prompts, and no other projector."""
    ids, kinds = catalog.vector_ids, checkpoint.projectors.kinds if checkpoint.projectors else {}
    placed = [] if ids is None else [*ids.tables, *([USER] if ids.user else [])]
    if missing := [name for name in placed if name not in kinds]:
        raise InputError(
            f"{checkpoint.path}: has no projector for {missing[0]!r}, but the catalog's prompts have such vectors; "
            f"it has: {', '.join(kinds) or 'none'}"
        )
    if unused := [name for name in kinds if name not in placed]:
        raise InputError(
            f"{checkpoint.path}: has a projector for {unused[0]!r}, but the catalog's prompts have no such vectors; "
            f"they have: {', '.join(placed) or 'none'}"
        )
    embedding = int(catalog.info["embedding"]["dim"])
    for name, kind in kinds.items():
        count, dim = (ids.tables.get(name), ids.dims.get(name)) if ids else (None, None)
        what, dim = ("embeddings", embedding) if dim is None else ("the column's vectors", dim)
        if "dim" in kind and kind["dim"] != dim:
            raise InputError(f"{checkpoint.path}: the projector for {name!r} takes {kind['dim']} numbers, {what} have {dim}")
        if "count" in kind and kind["count"] != count:
            raise InputError(f"{checkpoint.path}: the projector for {name!r} gives {kind['count']} vectors, prompts have {count}")


def check_tokenizer(checkpoint: Checkpoint, catalog: Catalog) -> None:
    """The checkpoint has a tokenizer.json, and it is the catalog's. Raises CheckpointError."""
    path = checkpoint.path / TOKENIZER
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file, which --with-tokenizer puts into the bundle")
    if fingerprint(load_tokenizer(str(path))) != catalog.info["tokenizer"]["sha256"]:
        raise CheckpointError(f"{path}: is another tokenizer than that of {catalog.path}: index with the model's own")


def check_same_origin(
    out: Path,
    old: Manifest | None,
    model: Model,
    exits: tuple[int, ...],
    catalog_sha256: str | None,
    reranker: RerankerPrompt | None,
) -> None:
    """The existing bundle's variants and the new ones have the same checkpoint, heads, exits, catalog and prompt, if any."""
    if old is None:
        return
    if old.catalog is not None:
        raise InputError(
            f"{out}: its catalog was refreshed after the export, which a new variant would not fit: export to another place"
        )
    differs = [
        what
        for what, same in (
            ("checkpoint", old.model.checkpoint_sha256 == model.checkpoint_sha256),
            (f"choice of heads ({old.model.head}, these are {model.head})", old.model.head == model.head),
            ("choice of exits", old.exits == exits),
            ("catalog", old.catalog_sha256 == catalog_sha256),
            ("prompt of a reranker", old.reranker == reranker),
        )
        if not same
    ]
    if differs:
        raise InputError(f"{out}: holds a bundle made from another {' and '.join(differs)}; remove it or choose another place")


def check_same_zero(out: Path, old: Manifest | None, zero: Path) -> None:
    """Raises InputError if the existing bundle's variants and policies were made with another exit zero of slates."""
    if old is not None and zero.name in old.files and old.files[zero.name] != FileEntry.of(zero):
        raise InputError(f"{out}: holds a bundle whose exit zero was fitted on other slates; remove it or choose another place")


def check_space(out: Path, needed: int, what: str) -> None:
    """The file system of `out` has `needed` free bytes for what needs them."""
    place = next(parent for parent in Path(os.path.abspath(out)).parents if parent.exists())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise InputError(f"{place}: {what} {needed / 1e6:.0f} MB, {free / 1e6:.0f} MB are free")
