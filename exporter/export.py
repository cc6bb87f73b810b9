"""`rexit export`: from a checkpoint and a catalog to a bundle with one variant.

1. Check what can be checked before any work: exits, tokenizer, prompt lengths, the output folder, its free space.
2. Draw golden slates from the validation split and let the unsplit PyTorch model answer them.
3. Export the segments, one graph each, with the target's passes.
4. Run them on the golden slates; more than `tolerance` away from PyTorch anywhere and nothing is written.
5. Write manifests; the folder takes its place only now.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rexit.bundle import Catalog, FileEntry, Golden, Manifest, Model, Variant, new_folder
from rexit.bundle.catalog import TABLES
from rexit.bundle.golden import FILE as GOLDEN_FILE
from rexit.errors import BundleError, InputError
from rexit.exporter import golden, parity
from rexit.exporter.checkpoint import Checkpoint, load
from rexit.exporter.graph import export_segment
from rexit.exporter.multi_exit import MultiExitModel
from rexit.exporter.segment import Segment
from rexit.exporter.targets import Target, find_target

Progress = Callable[[str, int, int], None]
"""Told (what is being done, how many are done, of how many)."""

CATALOG_FILES = ("catalog.json", *TABLES)


@dataclass(frozen=True)
class SegmentReport:
    """One exported segment: layers [begin, end), parameters it holds, bytes of graph and weights, seconds the export took."""

    layers: tuple[int, int]
    parameters: int
    bytes: int
    seconds: float


@dataclass(frozen=True)
class ExportReport:
    """What an export did. `parity` has one row per exit: largest difference of log-odds by mode."""

    bundle: str
    variant: str
    exits: tuple[int, ...]
    segments: tuple[SegmentReport, ...]
    parity: tuple[dict[str, float], ...]
    tolerance: float
    slates: int
    pairs: int
    bytes: int
    seconds: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def export(
    checkpoint: str | Path,
    catalog: Path,
    out: Path,
    *,
    exits: Sequence[int] | None = None,
    head: str | None = None,
    target: str = "cpu",
    precision: str = "fp32",
    max_tokens: int = 512,
    tolerance: float = 1e-4,
    golden_slates: int = 16,
    progress: Progress | None = None,
) -> ExportReport:
    """Writes the bundle `out`, whole or not at all. A bundle already there keeps its other variants if it was made from the same
    checkpoint, exits and catalog; a variant of the same name is replaced, its policy with it.

    checkpoint, exits, head: see `checkpoint.load`. max_tokens: the most tokens of candidates one pass takes.
    tolerance: largest allowed difference of log-odds. golden_slates: how many validation slates to compare on and to store.
    Raises InputError, CheckpointError, BundleError, BackendError, or ParityError when an exit computes something else.
    """
    tell = progress or (lambda _what, _done, _total: None)
    clock = _Clock()
    chosen = find_target(target, precision)
    opened = Catalog.open(Path(catalog))
    _check_options(max_tokens, tolerance, golden_slates)
    if edited := opened.edited():
        raise BundleError(edited[0])
    kept = _existing(Path(out))
    tell("load", 0, 1)
    loaded = load(checkpoint, exits, head, opened.info["labels"])
    _check_fit(loaded, opened, max_tokens)
    model = _describe(loaded)
    _check_same_origin(Path(out), kept, model, loaded.exits, opened)
    modules = [
        Segment(loaded.decoder, loaded.heads, k, begin, end).eval()
        for k, (begin, end) in enumerate(zip((0, *loaded.exits), loaded.exits, strict=False))
    ]
    parameters = [sum(p.numel() for p in segment.parameters()) for segment in modules]
    _check_space(Path(out), sum(parameters) * 4 + sum(opened.files[name].bytes for name in TABLES))
    tell("load", 1, 1)
    clock.lap("load")

    with new_folder(Path(out)) as folder:
        variant_folder = folder / "variants" / chosen.variant
        variant_folder.mkdir(parents=True)
        samples = golden.choose(opened.split("validation"), golden_slates)
        tell("reference", 0, len(samples))
        reference = MultiExitModel(loaded.decoder, loaded.heads, loaded.exits).eval()
        slates = golden.answer(reference, opened, samples, lambda done: tell("reference", done, len(samples)))
        clock.lap("reference")

        described, reports = [], []
        for k, segment in enumerate(modules):
            tell("segments", k, len(modules))
            began = time.perf_counter()
            one = export_segment(segment, k, chosen, variant_folder)
            size = sum((variant_folder / name).stat().st_size for name in (one.graph, one.weights))
            reports.append(SegmentReport(one.layers, parameters[k], size, time.perf_counter() - began))
            described.append(one)
        tell("segments", len(modules), len(modules))
        clock.lap("segments")

        tell("parity", 0, len(slates))
        rows, pairs = parity.measure(
            parity.Chain(variant_folder, described), slates, max_tokens, lambda done: tell("parity", done, len(slates))
        )
        parity.check(rows, loaded.exits, tolerance)
        clock.lap("parity")

        tell("write", 0, 1)
        Golden(slates).write(variant_folder / GOLDEN_FILE)
        (folder / "catalog").mkdir()
        for name in CATALOG_FILES:
            shutil.copyfile(opened.path / name, folder / "catalog" / name)
        Variant(
            name=chosen.variant,
            target=chosen.name,
            precision=chosen.precision,
            backend=chosen.backend,
            opset=chosen.opset,
            catalog_sha256=opened.sha256,
            checkpoint_sha256=model.checkpoint_sha256,
            max_tokens=max_tokens,
            max_positions=model.max_positions,
            segments=tuple(described),
            parity={
                "tolerance": tolerance,
                "samples": pairs,
                "slates": len(slates),
                "exits": [{"layers": depth, **row} for depth, row in zip(loaded.exits, rows, strict=True)],
            },
            files={path.name: FileEntry.of(path) for path in sorted(variant_folder.iterdir())},
        ).write(variant_folder)
        others = _keep(Path(out), kept, folder, chosen)
        _manifest(folder, model, loaded.exits, (chosen.variant, *others)).write(folder)
        total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        tell("write", 1, 1)
        clock.lap("write")
    return ExportReport(
        str(out), chosen.variant, loaded.exits, tuple(reports), tuple(rows), tolerance, len(slates), pairs, total, clock.seconds
    )


class _Clock:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name], self._last = now - self._last, now


def _check_options(max_tokens: int, tolerance: float, slates: int) -> None:
    if max_tokens < 1:
        raise InputError(f"max tokens is {max_tokens}, expected at least 1")
    if not tolerance > 0:
        raise InputError(f"tolerance is {tolerance}, expected a number above 0")
    if slates < 1:
        raise InputError(f"{slates} golden slates, expected at least 1: parity is measured on them")


def _existing(out: Path) -> Manifest | None:
    """The bundle that stands at `out`, if any. Nothing but a bundle or an empty folder is ever replaced. Raises InputError."""
    if not os.path.lexists(out):
        return None
    if (out / "manifest.json").is_file():
        return Manifest.read(out)
    if not out.is_dir() or any(out.iterdir()):
        raise InputError(f"{out}: exists and is no bundle; it would be replaced, so choose another place")
    return None


def _check_fit(checkpoint: Checkpoint, catalog: Catalog, max_tokens: int) -> None:
    decoder, info = checkpoint.decoder, catalog.info
    vocabulary = int(info["tokenizer"]["vocab_size"])
    if vocabulary > decoder.vocab_size:
        raise InputError(f"the catalog's tokenizer has {vocabulary} tokens, the model's embeddings only {decoder.vocab_size}")
    prefix, candidate = (int(info["prompt"][name]) for name in ("max_prefix_tokens", "max_candidate_tokens"))
    if prefix + candidate > decoder.max_positions:
        raise InputError(
            f"prompts have up to {prefix} + {candidate} = {prefix + candidate} tokens (prefix + candidate), "
            f"the model takes {decoder.max_positions}; shorten the template's histories"
        )
    if candidate > max_tokens:
        raise InputError(f"a candidate has up to {candidate} tokens, more than the {max_tokens} of --max-tokens")


def _check_same_origin(out: Path, kept: Manifest | None, model: Model, exits: tuple[int, ...], catalog: Catalog) -> None:
    if kept is None:
        return
    catalog_entry = kept.files.get("catalog/catalog.json")
    differs = [
        what
        for what, same in (
            ("checkpoint", kept.model.checkpoint_sha256 == model.checkpoint_sha256),
            ("choice of exits", kept.exits == exits),
            ("catalog", catalog_entry is not None and catalog_entry.sha256 == catalog.sha256),
        )
        if not same
    ]
    if differs:
        raise InputError(f"{out}: holds a bundle of another {' and '.join(differs)}; remove it or choose another place")


def _check_space(out: Path, needed: int) -> None:
    place = next(parent for parent in Path(os.path.abspath(out)).parents if parent.exists())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise InputError(f"{place}: the bundle needs about {needed / 1e6:.0f} MB, {free / 1e6:.0f} MB are free")


def _describe(checkpoint: Checkpoint) -> Model:
    decoder = checkpoint.decoder
    return Model(
        family=decoder.family,
        layers=len(decoder.layers),
        hidden_size=decoder.hidden_size,
        kv_heads=decoder.kv_heads,
        head_dim=decoder.head_dim,
        vocab_size=decoder.vocab_size,
        max_positions=decoder.max_positions,
        checkpoint_sha256=checkpoint.sha256(),
    )


def _keep(out: Path, kept: Manifest | None, folder: Path, new: Target) -> list[str]:
    """Takes the other variants of the bundle being replaced along, by hard link where the file system has them."""
    names = [name for name in kept.variants if name != new.variant] if kept else []
    for name in names:
        shutil.copytree(out / "variants" / name, folder / "variants" / name, copy_function=_link_or_copy, symlinks=True)
    return names


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _manifest(folder: Path, model: Model, exits: tuple[int, ...], variants: tuple[str, ...]) -> Manifest:
    names = [f"catalog/{name}" for name in CATALOG_FILES] + [f"variants/{name}/variant.json" for name in variants]
    return Manifest(model, exits, variants, {name: FileEntry.of(folder / name) for name in names})
