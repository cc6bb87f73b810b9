"""A bundle under construction: a variant's graphs in a folder, variant.json once they are judged, and the files beside the new
variants: other variants, the catalog, the manifest."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rexit.data.slates_file import SlatesFile
from rexit.data.texts import TextEncoder, read_tokenizer
from rexit.errors import CheckpointError
from rexit.exporter.checkpoints.checkpoint import Checkpoint
from rexit.exporter.checkpoints.rerankers import pair_tokenizer
from rexit.exporter.gate.quality import Judged
from rexit.exporter.graph.chain import Activations, Chain
from rexit.exporter.graph.segment import SegmentModule
from rexit.exporter.graph.targets import Target
from rexit.exporter.graph.trace import derive_segment, export_segment
from rexit.exporter.prompt.word_pieces import write_word_pieces
from rexit.exporter.source import Source
from rexit.format import bundle
from rexit.format.bundle import FileEntry, Golden, Manifest, Model, RerankerPrompt, TokenRequests, Variant, Vectors
from rexit.format.bundle.catalog import ZERO
from rexit.format.bundle.golden import FILE as GOLDEN_FILE
from rexit.format.bundle.manifest import TOKENIZER, WORD_PIECES
from rexit.format.bundle.variant import Limits
from rexit.format.bundle.vectors import FILE as VECTORS_FILE
from rexit.format.bundle.writer import link_or_copy


@dataclass(frozen=True)
class SegmentReport:
    """An exported segment: layers [begin, end), number of parameters, bytes of graph and weights, seconds of export."""

    layers: tuple[int, int]
    parameters: int
    bytes: int
    seconds: float


@dataclass(frozen=True)
class VariantReport:
    """An exported variant.

    parity: by exit, the largest difference of log-odds by mode, from PyTorch's or, with a `quality`, from the variant's own.
    quality, unrotated: as in variant.json. bytes: total size of its files.
    """

    name: str
    segments: tuple[SegmentReport, ...]
    parity: tuple[dict[str, float], ...]
    tolerance: float
    quality: dict[str, Any] | None
    bytes: int
    unrotated: str | None


@dataclass
class Draft:
    """The graphs for `target` in `folder`, which exists.

    on_segment: called after each segment. on_pass: called with the name of each pass over a segment before it runs.
    """

    target: Target
    folder: Path
    on_segment: Callable[[], None]
    on_pass: Callable[[str], None]
    segments: list[bundle.Segment] = field(default_factory=list)
    reports: list[SegmentReport] = field(default_factory=list)

    def trace(self, modules: Sequence[SegmentModule]) -> None:
        """Exports the segments. Raises CheckpointError."""
        for k, module in enumerate(modules):
            began = time.perf_counter()
            segment = export_segment(module, k, self.target, self.folder)
            self._add(segment, sum(p.numel() for p in module.parameters()), began)

    def derive(self, base: Draft, activations: Sequence[Activations]) -> None:
        """Derives the segments from the base's by the target's passes. Raises CheckpointError.

        activations: by segment, as in `derive_segment`."""
        for segment, report, rows in zip(base.segments, base.reports, activations, strict=True):
            began = time.perf_counter()
            derived = derive_segment(segment, base.folder, self.target, self.folder, rows, self.on_pass)
            self._add(derived, report.parameters, began)

    def chain(self, max_tokens: int, vectors: Vectors | None, kernels: bool = False) -> Chain:
        """Opens the graphs in ONNX Runtime. kernels: see `Chain`. Raises BackendError."""
        return Chain(self.folder, self.segments, max_tokens, vectors, kernels)

    def write(
        self,
        judged: Judged,
        zero: Sequence[NDArray[np.float32]],
        model: Model,
        catalog_sha256: str | None,
        max_tokens: int,
        pairs: int,
        unrotated: str | None,
    ) -> VariantReport:
        """Writes variant.json and the golden samples next to the graphs.

        Args:
            judged: golden samples, parity and quality.
            zero: exit zero's log-odds of the golden slates' candidates, [n] each; empty: there is no exit zero.
            model: the bundle's model.
            catalog_sha256: digest of the bundle's catalog; None if it has none.
            max_tokens: maximum number of candidate tokens in one pass.
            pairs: number of candidates that were also run one by one.
            unrotated: why the model could not be rotated; None if it was.
        """
        golden = judged.slates
        if zero:
            golden = [replace(s, log_odds=np.column_stack([z, s.log_odds])) for z, s in zip(zero, golden, strict=True)]
        Golden(golden).write(self.folder / GOLDEN_FILE)
        target = self.target
        Variant(
            name=target.variant,
            target=target.name,
            precision=target.precision,
            backend=target.backend,
            opset=target.opset,
            catalog_sha256=catalog_sha256,
            checkpoint_sha256=model.checkpoint_sha256,
            limits=Limits(max_tokens, model.max_positions),
            segments=tuple(self.segments),
            parity={
                "reference": "pytorch" if target.gate is None else "variant",
                "tolerance": judged.tolerance,
                "samples": pairs,
                "slates": len(judged.slates),
                "exits": [
                    {"layers": segment.layers[1], **row} for segment, row in zip(self.segments, judged.differences, strict=True)
                ],
            },
            files={path.name: FileEntry.of(path) for path in sorted(self.folder.iterdir())},
            quality=judged.quality,
            unrotated=unrotated,
            past_padding=target.past_padding,
        ).write(self.folder)
        size = sum(path.stat().st_size for path in self.folder.iterdir())
        return VariantReport(
            target.variant, tuple(self.reports), tuple(judged.differences), judged.tolerance, judged.quality, size, unrotated
        )

    def _add(self, segment: bundle.Segment, parameters: int, began: float) -> None:
        size = sum((self.folder / name).stat().st_size for name in (segment.graph, segment.weights))
        self.segments.append(segment)
        self.reports.append(SegmentReport(segment.layers, parameters, size, time.perf_counter() - began))
        self.on_segment()


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
        for name in old.files.keys() & {TOKENIZER, WORD_PIECES}:
            link_or_copy(os.fspath(out / name), os.fspath(folder / name))
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
        tokenizer = pair_tokenizer(checkpoint.path).backend_tokenizer
        tokenizer.save(str(folder / TOKENIZER))
        write_word_pieces(tokenizer, checkpoint.reranker.pair, folder)
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
    if not isinstance(source, SlatesFile):
        return None
    return TokenRequests(checkpoint.labels, *source.lengths, tuple(source.score_names))


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
    names += [name for name in (VECTORS_FILE, TOKENIZER, WORD_PIECES, ZERO) if (folder / name).is_file()]
    entries = {name: FileEntry.of(folder / name) for name in names}
    manifest = Manifest(model=model, exits=exits, variants=variants, reranker=reranker, tokens=tokens, roles=roles, files=entries)
    manifest.write(folder)
