"""`rexit export`: from a checkpoint and a catalog to a bundle with one or more variants.

1. Check what can be checked before any work: options, exits, tokenizer, prompt lengths, the output folder, its free space.
2. Draw golden slates from the validation split and score them with the unsplit PyTorch model.
3. Rotate the model (`rexit.exporter.model.rotation`) if it is of a kind that can be.
4. Trace the segments once, in float32 and at the target's opset, one graph each, and run them on the golden slates: if they are
   more than `tolerance` away from PyTorch anywhere, nothing is written.
5. Derive every variant from these graphs with its target's passes, which may have to observe them on real prompts first.
6. Judge the variants: one of lower precision has to pass its gate on validation prompts (`rexit.exporter.gate.quality`), and to
   agree with itself on the golden slates in all ways of running it. One that does not is left out; if none passes nothing is
   written.
7. Write the manifests; only now does the folder become the bundle.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from rexit.bundle import Catalog, FileEntry, Manifest, Model, Vectors, new_folder, sole_writer
from rexit.bundle.catalog import CATALOG_FILES, TABLES
from rexit.bundle.golden import GoldenSlate
from rexit.bundle.vectors import FILE as VECTORS_FILE
from rexit.bundle.writer import link_or_copy
from rexit.errors import BundleError, ParityError
from rexit.exporter import preflight
from rexit.exporter.draft import Draft, VariantReport
from rexit.exporter.gate import parity
from rexit.exporter.gate.golden import golden_slates
from rexit.exporter.gate.judge import Judge, Judged
from rexit.exporter.gate.quality import Prompts
from rexit.exporter.graph.segment import SegmentModule, SegmentWithVectors
from rexit.exporter.graph.targets import Target
from rexit.exporter.model import rotation
from rexit.exporter.model.checkpoint import Checkpoint, load_checkpoint
from rexit.exporter.model.multi_exit import MultiExitModel
from rexit.exporter.model.vectors import Sources
from rexit.exporter.options import ExportOptions
from rexit.progress import Progress, silent
from rexit.slates import cut, draw


@dataclass(frozen=True)
class ExportReport:
    """What an export did. refused: why a variant was not written, by its name. slates, pairs: run for parity. bytes: of the whole
    bundle, including older variants. seconds: by stage. doubt: where a gate applied, why the model's ranking may be worth nothing
    (`rexit.ranking.doubt`)."""

    bundle: str
    exits: tuple[int, ...]
    variants: tuple[VariantReport, ...]
    refused: dict[str, str]
    slates: int
    pairs: int
    bytes: int
    seconds: dict[str, float]
    doubt: str | None

    def to_json(self) -> dict[str, Any]:
        """What `rexit export --json` prints: plain JSON values."""
        return asdict(self)


def export_bundle(
    checkpoint: str | Path, catalog: Path, out: Path, options: ExportOptions | None = None, *, progress: Progress = silent
) -> ExportReport:
    """Writes the bundle `out`, whole or not at all. A bundle already there keeps its other variants if it was made from the same
    checkpoint, exits and catalog; a variant of the same name is replaced, its policy with it. Of several variants those that pass
    are written, the others stand in the report's `refused`.

    Raises InputError, also while another process is writing to `out`; CheckpointError; BundleError; BackendError; ParityError if
    an exit does not compute what the model computes; QualityError if no variant passes: each loses, or may lose, more than its
    gate allows.
    """
    options = options or ExportOptions()
    targets = preflight.chosen_targets(options.target, options.precisions, options.cache)
    preflight.check_options(options)
    opened = Catalog.open(Path(catalog))
    if edited := opened.edited():
        raise BundleError(edited[0])
    with contextlib.ExitStack() as locks, new_folder(Path(out)) as folder:
        locks.enter_context(sole_writer(Path(out)))  # until the new bundle is in place
        work = _Export(options, targets, opened, Path(out), folder, progress)
        work.load(checkpoint)
        golden = work.reference()
        work.rotate()
        base, parity_of_base = work.trace(golden)
        drafts = work.derive(base)
        return work.write(*work.judge(base, drafts, parity_of_base))


class _Export:
    """One export in progress: the steps of `export_bundle`, in order, and what they share."""

    def __init__(
        self, options: ExportOptions, targets: Sequence[Target], catalog: Catalog, out: Path, folder: Path, progress: Progress
    ) -> None:
        self._options, self._targets, self._catalog = options, targets, catalog
        self._out, self._folder, self._progress, self._clock = out, folder, progress, _Clock()
        self._base = targets[0].base or targets[0]  # all are for one target and so share one base
        self._kept = preflight.existing(out)
        gated = any(one.gate for one in targets)
        self._prompts = Prompts.draw(catalog, options.quality_slates) if gated else None
        if self._prompts and not options.accept_loss:
            self._prompts.check()
        self._observation = next((one.observation for one in targets if one.observation), None)
        self._observed = self._observation.draw(catalog) if self._observation else []

    def load(self, checkpoint: str | Path) -> None:
        self._progress("load", 0, 1)
        options, catalog = self._options, self._catalog
        self._loaded = loaded = load_checkpoint(checkpoint, options.exits, options.head, catalog.info["labels"])
        preflight.check_fit(loaded, catalog, options.max_tokens)
        if not options.accept_catalog:
            preflight.check_trained_on(loaded, catalog)
        self._model = _describe(loaded)
        preflight.check_same_origin(self._out, self._kept, self._model, loaded.exits, catalog)
        borders = zip((0, *loaded.exits), loaded.exits, strict=False)
        self._modules = [
            SegmentModule(loaded.decoder, loaded.heads, k, begin, end).eval() for k, (begin, end) in enumerate(borders)
        ]
        if ids := catalog.vector_ids:
            self._modules[0] = SegmentWithVectors(loaded.decoder, loaded.heads, loaded.exits[0], ids.vocabulary).eval()
        parameters = sum(p.numel() for module in self._modules for p in module.parameters())
        weights = parameters * (4 + 2 * sum(one is not self._base for one in self._targets))
        self._unrotated = rotation.obstacle(loaded.decoder)
        self._turn = None if self._unrotated else rotation.orthogonal(loaded.decoder.hidden_size)
        self._vectors = _vectors(loaded, catalog, self._turn)
        shared = sum(catalog.files[name].bytes for name in TABLES) + (self._vectors.bytes if self._vectors else 0)
        preflight.check_space(self._out, weights + shared)
        self._progress("load", 1, 1)
        self._clock.lap("load")

    def reference(self) -> list[GoldenSlate]:
        loaded, drawn = self._loaded, draw(cut(self._catalog, "validation"), self._options.golden_slates)
        self._progress("reference", 0, len(drawn))
        model = MultiExitModel(loaded.decoder, loaded.heads, loaded.exits).eval()
        golden = golden_slates(
            model, self._catalog, drawn, self._vectors, self._turn, lambda done: self._progress("reference", done, len(drawn))
        )
        self._clock.lap("reference")
        return golden

    def rotate(self) -> None:
        """Changes the weights that the segments share. The same for every precision, as they share the vectors, too."""
        if self._turn is not None:
            rotation.rotate(self._loaded.decoder, self._loaded.heads, self._turn)
        self._clock.lap("rotation")

    def trace(self, golden: list[GoldenSlate]) -> tuple[Draft, Judged]:
        """The float32 graphs and their parity; `self._chain` runs them from now on."""
        self._made, self._to_make = 0, len(self._modules) * len({self._base, *self._targets})
        base = self._draft(self._base)
        self._progress("segments", 0, self._to_make)
        base.trace(self._modules)
        self._clock.lap("segments")
        self._progress("parity", 0, len(golden))
        self._chain = base.chain(self._options.max_tokens, self._vectors)
        differences, self._pairs = parity.compare(self._chain, golden, lambda done: self._progress("parity", done, len(golden)))
        parity.check(differences, self._loaded.exits, self._options.tolerance)
        self._clock.lap("parity")
        return base, Judged(golden, differences, self._options.tolerance, None)

    def derive(self, base: Draft) -> list[Draft]:
        """All variants asked for, including the base if it is one of them."""
        seen = self._observe()
        drafts = []
        for target in self._targets:
            draft = base if target is self._base else self._draft(target)
            if draft is not base:
                draft.derive(base, seen)
            drafts.append(draft)
        self._clock.lap("variants")
        return drafts

    def judge(
        self, base: Draft, drafts: Sequence[Draft], parity_of_base: Judged
    ) -> tuple[list[tuple[Draft, Judged]], dict[str, ParityError]]:
        """The variants that pass, and why the others do not, whose graphs are removed. Raises the first reason if none passes."""
        judge = self._prompts and Judge(
            self._chain,
            self._loaded.exits,
            self._prompts,
            self._options.accept_loss,
            self._progress,
        )
        self._doubt = judge.doubt() if judge else None
        passed, refused = [], dict[str, ParityError]()
        for draft in drafts:
            if not judge or draft is base:
                passed.append((draft, parity_of_base))
                continue
            chain = draft.chain(self._options.max_tokens, self._vectors)
            try:
                passed.append((draft, judge.judge(draft.target, chain, parity_of_base.slates)))
            except ParityError as exc:
                refused[draft.target.variant] = exc
                shutil.rmtree(draft.folder)
        self._clock.lap("quality")
        if not passed:
            raise next(iter(refused.values()))
        return passed, refused

    def write(self, passed: Sequence[tuple[Draft, Judged]], refused: Mapping[str, ParityError]) -> ExportReport:
        self._progress("write", 0, 1)
        exits, folder = self._loaded.exits, self._folder
        written = tuple(
            draft.write(one, exits, self._model, self._catalog, self._options.max_tokens, self._pairs, self._unrotated)
            for draft, one in passed
        )
        if self._base not in self._targets:
            shutil.rmtree(self._place(self._base))
        (folder / "catalog").mkdir()
        for name in CATALOG_FILES:
            shutil.copyfile(self._catalog.path / name, folder / "catalog" / name)
        if self._vectors:
            self._vectors.write(folder / VECTORS_FILE)
        variants = _keep(self._out, self._kept, folder, [one.name for one in written])
        _manifest(folder, self._model, exits, variants).write(folder)
        total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        self._progress("write", 1, 1)
        self._clock.lap("write")
        reasons = {name: str(reason) for name, reason in refused.items()}
        slates = len(passed[0][1].slates)
        return ExportReport(str(self._out), exits, written, reasons, slates, self._pairs, total, self._clock.seconds, self._doubt)

    def _observe(self) -> Sequence[Mapping[str, Any]]:
        """What the values inside each segment look like on real prompts; empty if no target needs to know."""
        observation, prompts = self._observation, self._observed
        if not (observation and prompts):
            return [{}] * len(self._modules)
        self._progress(observation.name, 0, len(prompts))
        seen = observation.gather(self._chain, prompts, lambda done: self._progress(observation.name, done, len(prompts)))
        self._clock.lap(observation.name)
        return seen

    def _draft(self, target: Target) -> Draft:
        place = self._place(target)
        place.mkdir(parents=True)
        return Draft(target, place, self._segment_made)

    def _place(self, target: Target) -> Path:
        return self._folder / ("traced" if target not in self._targets else f"variants/{target.variant}")

    def _segment_made(self) -> None:
        self._made += 1
        self._progress("segments", self._made, self._to_make)


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


def _vectors(checkpoint: Checkpoint, catalog: Catalog, turn: Tensor | None) -> Vectors | None:
    """All that prompts can have, made once and rotated by `turn`; None if they are text alone."""
    if checkpoint.projectors is None:
        return None
    return Sources(catalog).vectors(checkpoint.projectors, checkpoint.model.get_input_embeddings(), turn)


def _keep(out: Path, kept: Manifest | None, folder: Path, new: Sequence[str]) -> tuple[str, ...]:
    """Carries over the other variants of the bundle being replaced, by hard link where the file system supports it.

    Returns the names of all variants: old ones keep their places, so the default stays the same; new ones follow.
    """
    before = kept.variants if kept else ()
    for name in before:
        if name not in new:
            shutil.copytree(out / "variants" / name, folder / "variants" / name, copy_function=link_or_copy, symlinks=True)
    return (*before, *(name for name in new if name not in before))


def _manifest(folder: Path, model: Model, exits: tuple[int, ...], variants: tuple[str, ...]) -> Manifest:
    names = [f"catalog/{name}" for name in CATALOG_FILES] + [f"variants/{name}/variant.json" for name in variants]
    if (folder / VECTORS_FILE).is_file():
        names.append(VECTORS_FILE)
    return Manifest(model, exits, variants, {name: FileEntry.of(folder / name) for name in names})
