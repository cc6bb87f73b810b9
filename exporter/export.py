"""`rexit export`: from a checkpoint and a catalog to a bundle with one or more variants.

1. Check what can be checked before any work: exits, tokenizer, prompt lengths, the output folder, its free space.
2. Draw golden slates from the validation split and let the unsplit PyTorch model answer them.
3. Trace the segments once, in float32 and at the target's opset, one graph each, and run them on the golden slates: more than
   `tolerance` away from PyTorch anywhere and nothing is written.
4. Make every variant from these graphs by its target's passes. One of lower precision has to pass its gate on validation prompts
   (`rexit.exporter.quality`), and to agree with itself on the golden slates in all ways of running them.
5. Write manifests; the folder takes its place only now.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rexit.bundle import Catalog, FileEntry, Golden, Manifest, Model, Segment, Variant, new_folder, sole_writer
from rexit.bundle.catalog import TABLES
from rexit.bundle.golden import FILE as GOLDEN_FILE
from rexit.errors import BundleError
from rexit.exporter import golden, parity, quality
from rexit.exporter.checkpoint import Checkpoint, load
from rexit.exporter.graph import derive_segment, export_segment
from rexit.exporter.judge import Judge
from rexit.exporter.multi_exit import MultiExitModel
from rexit.exporter.preflight import check_fit, check_options, check_same_origin, check_space, chosen_targets, existing
from rexit.exporter.segment import Segment as SegmentModule
from rexit.exporter.targets import EXACT, Target

Progress = Callable[[str, int, int], None]
"""Told (what is being done, how many are done, of how many)."""

CATALOG_FILES = ("catalog.json", *TABLES)


@dataclass(frozen=True)
class SegmentReport:
    """One exported segment: layers [begin, end), parameters it holds, bytes of graph and weights, seconds it took to make."""

    layers: tuple[int, int]
    parameters: int
    bytes: int
    seconds: float


@dataclass(frozen=True)
class VariantReport:
    """One variant. `parity` has one row per exit: largest difference of log-odds by mode, from PyTorch's or, where there is a
    `quality` (as in variant.json), from the variant's own. bytes: of all its files."""

    name: str
    segments: tuple[SegmentReport, ...]
    parity: tuple[dict[str, float], ...]
    tolerance: float
    quality: dict[str, Any] | None
    bytes: int


@dataclass(frozen=True)
class ExportReport:
    """What an export did. `bytes`: of the whole bundle, older variants included; `seconds` by stage."""

    bundle: str
    exits: tuple[int, ...]
    variants: tuple[VariantReport, ...]
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
    precisions: Sequence[str] = ("fp32",),
    max_tokens: int = 512,
    tolerance: float = EXACT,
    golden_slates: int = 16,
    quality_slates: int = 400,
    accept_loss: bool = False,
    progress: Progress | None = None,
) -> ExportReport:
    """Writes the bundle `out`, whole or not at all. A bundle already there keeps its other variants if it was made from the same
    checkpoint, exits and catalog; a variant of the same name is replaced, its policy with it.

    checkpoint, exits, head: see `checkpoint.load`. max_tokens: the most tokens of candidates one pass takes.
    tolerance: largest allowed difference of the float32 graphs' log-odds. golden_slates: how many validation slates to compare on
    and to store. quality_slates: how many slates of the validation split a lower precision is judged on (0: all); accept_loss:
    write it even if it fails, or if they are too few to tell.
    Raises InputError, also while another process writes `out`, CheckpointError, BundleError, BackendError, ParityError when an
    exit computes something else, or QualityError when a lower precision loses more than its gate allows, or may do so.
    """
    tell = progress or (lambda _what, _done, _total: None)
    clock = _Clock()
    chosen = chosen_targets(target, precisions)
    opened = Catalog.open(Path(catalog))
    check_options(max_tokens, tolerance, golden_slates, quality_slates)
    if edited := opened.edited():
        raise BundleError(edited[0])
    with contextlib.ExitStack() as locks, new_folder(Path(out)) as folder:
        locks.enter_context(sole_writer(Path(out)))  # until the new one stands
        kept = existing(Path(out))
        prompts = quality.Prompts.draw(opened, quality_slates) if any(one.gate for one in chosen) else None
        if prompts and not accept_loss:
            prompts.check()
        observation = next((one.observation for one in chosen if one.observation), None)
        observed = observation.draw(opened) if observation else []
        tell("load", 0, 1)
        loaded = load(checkpoint, exits, head, opened.info["labels"])
        check_fit(loaded, opened, max_tokens)
        model = _describe(loaded)
        check_same_origin(Path(out), kept, model, loaded.exits, opened)
        modules = [
            SegmentModule(loaded.decoder, loaded.heads, k, begin, end).eval()
            for k, (begin, end) in enumerate(zip((0, *loaded.exits), loaded.exits, strict=False))
        ]
        parameters = [sum(p.numel() for p in segment.parameters()) for segment in modules]
        base = chosen[0].base or chosen[0]  # all have one target, and with it one base
        weights = sum(parameters) * (4 + 2 * sum(one is not base for one in chosen))
        check_space(Path(out), weights + sum(opened.files[name].bytes for name in TABLES))
        tell("load", 1, 1)
        clock.lap("load")

        folders = {one: folder / "variants" / one.variant for one in chosen}
        for place in folders.values():
            place.mkdir(parents=True)
        samples = golden.choose(opened.split("validation"), golden_slates)
        tell("reference", 0, len(samples))
        reference = MultiExitModel(loaded.decoder, loaded.heads, loaded.exits).eval()
        slates = golden.answer(reference, opened, samples, lambda done: tell("reference", done, len(samples)))
        clock.lap("reference")

        traced = folders.get(base, folder / "traced")
        traced.mkdir(exist_ok=True)
        described: dict[Target, list[Segment]] = {one: [] for one in (base, *chosen)}
        reports: dict[Target, list[SegmentReport]] = {one: [] for one in described}
        steps = len(modules) * len(reports)

        def made(one: Target, k: int, make: Callable[[], Segment], place: Path) -> None:
            tell("segments", sum(map(len, reports.values())), steps)
            began = time.perf_counter()
            segment = make()
            size = sum((place / name).stat().st_size for name in (segment.graph, segment.weights))
            described[one].append(segment)
            reports[one].append(SegmentReport(segment.layers, parameters[k], size, time.perf_counter() - began))

        for k, module in enumerate(modules):
            made(base, k, functools.partial(export_segment, module, k, base, traced), traced)
        clock.lap("segments")

        tell("parity", 0, len(slates))
        exact = parity.Chain(traced, described[base])
        rows, pairs = parity.measure(exact, slates, max_tokens, lambda done: tell("parity", done, len(slates)))
        parity.check(rows, loaded.exits, tolerance)
        clock.lap("parity")

        seen: Sequence[Mapping[str, Any]] = [{}] * len(modules)
        if observation and observed:
            step = observation.name
            tell(step, 0, len(observed))
            seen = observation.gather(traced, described[base], observed, max_tokens, lambda done: tell(step, done, len(observed)))
            clock.lap(step)
        for one in chosen:
            if one is not base:
                for k, segment in enumerate(described[base]):
                    place = folders[one]
                    made(one, k, functools.partial(derive_segment, segment, traced, one, place, seen[k]), place)
        tell("segments", steps, steps)
        clock.lap("variants")

        judged = Judge(loaded.exits, max_tokens, prompts, lambda done, total: tell("quality", done, total), accept_loss)
        written = {}
        for one in chosen:
            place = folders[one]
            if one.gate is None:
                own, differences, allowed, found = slates, rows, tolerance, None
            else:
                own, differences, allowed, found = judged.judge(one, exact, parity.Chain(place, described[one]), slates)
            Golden(own).write(place / GOLDEN_FILE)
            Variant(
                name=one.variant,
                target=one.name,
                precision=one.precision,
                backend=one.backend,
                opset=one.opset,
                catalog_sha256=opened.sha256,
                checkpoint_sha256=model.checkpoint_sha256,
                max_tokens=max_tokens,
                max_positions=model.max_positions,
                segments=tuple(described[one]),
                parity={
                    "reference": "pytorch" if one.gate is None else "variant",
                    "tolerance": allowed,
                    "samples": pairs,
                    "slates": len(slates),
                    "exits": [{"layers": depth, **row} for depth, row in zip(loaded.exits, differences, strict=True)],
                },
                files={path.name: FileEntry.of(path) for path in sorted(place.iterdir())},
                quality=found,
            ).write(place)
            size = sum(path.stat().st_size for path in place.iterdir())
            written[one] = VariantReport(one.variant, tuple(reports[one]), tuple(differences), allowed, found, size)
        clock.lap("quality")

        tell("write", 0, 1)
        if base not in chosen:
            shutil.rmtree(traced)
        (folder / "catalog").mkdir()
        for name in CATALOG_FILES:
            shutil.copyfile(opened.path / name, folder / "catalog" / name)
        variants = _keep(Path(out), kept, folder, [one.variant for one in chosen])
        _manifest(folder, model, loaded.exits, variants).write(folder)
        total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        tell("write", 1, 1)
        clock.lap("write")
    return ExportReport(str(out), loaded.exits, tuple(written.values()), len(slates), pairs, total, clock.seconds)


class _Clock:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name], self._last = now - self._last, now


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
        head=checkpoint.head,
        checkpoint_sha256=checkpoint.sha256(),
    )


def _keep(out: Path, kept: Manifest | None, folder: Path, new: Sequence[str]) -> tuple[str, ...]:
    """Takes the other variants of the bundle being replaced along, by hard link where the file system has them.

    Returns all variants: those that were there keep their places, so the one used by default stays, new ones follow.
    """
    before = kept.variants if kept else ()
    for name in before:
        if name not in new:
            shutil.copytree(out / "variants" / name, folder / "variants" / name, copy_function=_link_or_copy, symlinks=True)
    return (*before, *(name for name in new if name not in before))


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _manifest(folder: Path, model: Model, exits: tuple[int, ...], variants: tuple[str, ...]) -> Manifest:
    names = [f"catalog/{name}" for name in CATALOG_FILES] + [f"variants/{name}/variant.json" for name in variants]
    return Manifest(model, exits, variants, {name: FileEntry.of(folder / name) for name in names})
