"""The files of a bundle beside the new variants: other variants, the catalog, the manifest."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from rexit.bundle import FileEntry, Manifest, Model, RerankerPrompt, TokenRequests
from rexit.bundle.manifest import TOKENIZER
from rexit.bundle.vectors import FILE as VECTORS_FILE
from rexit.bundle.writer import link_or_copy
from rexit.errors import CheckpointError
from rexit.exporter.checkpoints.checkpoint import Checkpoint
from rexit.exporter.checkpoints.pairs import pair_tokenizer
from rexit.exporter.source import Source
from rexit.prompts.slates_file import SlatesFile
from rexit.prompts.texts import TextEncoder, read_tokenizer


def model_of(checkpoint: Checkpoint) -> Model:
    """The manifest's description of a checkpoint."""
    decoder = checkpoint.decoder
    return Model(
        family=decoder.family,
        layers=len(decoder.layers),
        hidden_size=decoder.hidden_size,
        kv_heads=decoder.kv_heads,
        head_dim=decoder.head_dim,
        vocab_size=decoder.vocab_size,
        max_positions=decoder.max_positions,
        head=checkpoint.head,
        checkpoint_sha256=checkpoint.sha256(),
        causal=decoder.causal,
    )


def carry_over(
    out: Path, old: Manifest | None, folder: Path, new: Sequence[str]
) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]]:
    """Copies what stays of the bundle being replaced, by hard link if the file system supports it: the other variants; of new
    variants that are what they were, policy, report, traces and engines; the tokenizer if the new bundle has none.

    Args:
        out: the bundle.
        old: its manifest; None: there is no bundle.
        folder: the new bundle.
        new: names of the new variants.

    Returns:
        The names of all variants, the old ones before the new ones. By replaced variant, the files and folders that are gone.
    """
    before = old.variants if old else ()
    if old and TOKENIZER in old.files and not (folder / TOKENIZER).exists():
        link_or_copy(os.fspath(out / TOKENIZER), os.fspath(folder / TOKENIZER))
    gone = {}
    for name in before:
        there, here, description = out / "variants" / name, folder / "variants" / name, f"variants/{name}/variant.json"
        if name not in new:
            shutil.copytree(there, here, copy_function=link_or_copy, symlinks=True)
            continue
        others = [path for path in sorted(there.iterdir()) if not (here / path.name).exists()] if there.is_dir() else []
        if old and old.files.get(description) == FileEntry.of(folder / description):
            for path in others:
                if path.is_dir():
                    shutil.copytree(path, here / path.name, copy_function=link_or_copy, symlinks=True)
                else:
                    link_or_copy(os.fspath(path), os.fspath(here / path.name))
        elif others:
            gone[name] = tuple(path.name for path in others)
    return (*before, *(name for name in new if name not in before)), gone


def copy_tokenizer(checkpoint: Checkpoint, folder: Path) -> None:
    """Copies the checkpoint's tokenizer.json into the bundle; an encoder's is written as transformers reads it. Raises
    CheckpointError if it has none."""
    if checkpoint.reranker is not None and checkpoint.reranker.pair is not None:
        pair_tokenizer(checkpoint.path).backend_tokenizer.save(str(folder / TOKENIZER))
        return
    try:
        shutil.copyfile(checkpoint.path / TOKENIZER, folder / TOKENIZER)
    except OSError as exc:
        raise CheckpointError(f"{checkpoint.path / TOKENIZER}: cannot be copied into the bundle: {exc.strerror}") from exc


def encoder_of(checkpoint: Checkpoint, max_tokens: int) -> TextEncoder:
    """The checkpoint's encoder of texts, with candidates of at most `max_tokens`. Raises InputError."""
    if checkpoint.reranker is not None and checkpoint.reranker.pair is not None:
        tokenizer = pair_tokenizer(checkpoint.path).backend_tokenizer
    else:
        tokenizer = read_tokenizer(checkpoint.path / TOKENIZER)
    return TextEncoder(tokenizer, checkpoint.reranker, checkpoint.decoder.max_positions, max_tokens)


def token_requests(source: Source, checkpoint: Checkpoint) -> TokenRequests | None:
    """What the bundle says of its requests if it has no catalog; None: it has one."""
    return TokenRequests(checkpoint.labels, *source.lengths) if isinstance(source, SlatesFile) else None


def write_manifest(
    folder: Path,
    model: Model,
    exits: tuple[int, ...],
    variants: tuple[str, ...],
    reranker: RerankerPrompt | None,
    tokens: TokenRequests | None,
    roles: str | None,
) -> None:
    """Writes the bundle's manifest, with the digests of its files. tokens: None: there is a catalog."""
    names = [] if tokens else [f"catalog/{path.name}" for path in sorted((folder / "catalog").iterdir())]
    names += [f"variants/{name}/variant.json" for name in variants]
    names += [name for name in (VECTORS_FILE, TOKENIZER) if (folder / name).is_file()]
    entries = {name: FileEntry.of(folder / name) for name in names}
    manifest = Manifest(model=model, exits=exits, variants=variants, reranker=reranker, tokens=tokens, roles=roles, files=entries)
    manifest.write(folder)
