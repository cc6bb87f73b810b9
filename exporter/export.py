"""`rexit export`: from a checkpoint and a catalog, or a file of slates, to a bundle with one or more variants.

1. Check options, exits, tokenizer, prompt lengths, the output folder and its free space.
2. Sample golden slates from the validation split and score them with the unsplit PyTorch model.
3. Rotate the model (`rexit.exporter.model.rotation`) if it can be rotated.
4. Trace the segments once, in float32 and at the target's opset, one graph each, and run them on the golden slates. If any
   log-odds are more than `tolerance` away from PyTorch's, nothing is written.
5. Derive every variant from these graphs by its target's passes, some of which need activations on real prompts.
6. Judge the variants. A variant of lower precision must pass its gate on validation prompts (`rexit.exporter.gate.quality`), and
   all ways of running it must agree on the golden slates. Variants that fail are left out; if none passes, nothing is written.
7. Write the manifests. Only then does the folder become the bundle.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rexit.bundle import Catalog, Vectors, new_folder, sole_writer
from rexit.bundle.golden import GoldenSlate
from rexit.bundle.vectors import FILE as VECTORS_FILE
from rexit.errors import ParityError
from rexit.exporter import preflight
from rexit.exporter.assembly import Draft, VariantReport, carry_over, copy_tokenizer, model_of, token_requests, write_manifest
from rexit.exporter.checkpoints.checkpoint import load_checkpoint
from rexit.exporter.clock import Clock
from rexit.exporter.gate import parity
from rexit.exporter.gate.parity import golden_slates
from rexit.exporter.gate.quality import Judge, Judged, Prompts
from rexit.exporter.graph.activations import Activations, sample
from rexit.exporter.graph.segment import SegmentModule, SegmentWithVectors
from rexit.exporter.graph.targets import Target
from rexit.exporter.model import rotation
from rexit.exporter.model.multi_exit import MultiExitModel
from rexit.exporter.model.vectors import Sources
from rexit.exporter.options import ExportOptions
from rexit.exporter.source import Source, zero_of
from rexit.progress import Progress, silent, tracked
from rexit.prompts.slates_file import SlatesFile
from rexit.slates import cut, draw


@dataclass(frozen=True)
class ExportReport:
    """The result of an export.

    bundle: its path. exits: depths in layers, 0 first with exit zero. variants: those written. refused: why others were not
        written, by name.
    gone: by replaced variant, its files and folders that went with it, such as its policy. slates, pairs: run for parity.
    bytes: size of the bundle, including older variants. seconds: duration of each stage.
    doubt: if a gate applied, why the model's ranking may be useless (`rexit.ranking.doubt`).
    """

    bundle: str
    exits: tuple[int, ...]
    variants: tuple[VariantReport, ...]
    refused: dict[str, str]
    gone: dict[str, tuple[str, ...]]
    slates: int
    pairs: int
    bytes: int
    seconds: dict[str, float]
    doubt: str | None

    def to_json(self) -> dict[str, Any]:
        """The output of `rexit export --json`."""
        return asdict(self)


def export_bundle(
    checkpoint: str | Path,
    catalog: Path | None,
    out: Path,
    options: ExportOptions | None = None,
    *,
    slates: Path | None = None,
    progress: Progress = silent,
) -> ExportReport:
    """Writes a bundle, whole or not at all.

    A bundle at `out` keeps its other variants if checkpoint, exits and catalog are the same. A variant of the same name is
    replaced, with its policy unless it is what it was. Of several variants those that pass are written.

    Args:
        checkpoint: a folder, GGUF file or Hub id, see `load_checkpoint`.
        catalog: a catalog folder, written by `rexit index`; None if there are `slates`.
        out: the bundle folder.
        options: None: the defaults.
        slates: a file of slates instead of a catalog; the bundle's requests are then token ids.
        progress: called with a stage, the steps done and the steps in all.

    Raises:
        InputError: options, exits or files do not fit together, or another process is writing to `out`.
        CheckpointError, BundleError: checkpoint or catalog cannot be read.
        BackendError: ONNX Runtime fails.
        ParityError: an exit's log-odds differ from the model's.
        QualityError: no variant passes: each loses, or may lose, more than its gate allows.
    """
    options = options or ExportOptions()
    targets = preflight.chosen_targets(options.target, options.precisions)
    preflight.check_options(options)
    preflight.check_one_source(catalog, slates)
    opened = slates if catalog is None else preflight.open_catalog(catalog)
    assert opened is not None
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
    """The steps of `export_bundle`, in order, and their shared state."""

    def __init__(
        self,
        options: ExportOptions,
        targets: Sequence[Target],
        place: Catalog | Path,
        out: Path,
        folder: Path,
        progress: Progress,
    ) -> None:
        """place: a catalog, or the path of a file of slates, whose texts need the checkpoint."""
        self._options, self._targets, self._place_of_slates = options, targets, place
        self._out, self._folder, self._progress, self._clock = out, folder, progress, Clock()
        self._base = targets[0].base or targets[0]  # all precisions of a target share a base
        self._old = preflight.existing(out)
        self._draw_sampled = next((target.sampled_prompts for target in targets if target.sampled_prompts), None)
        if isinstance(place, Catalog):
            self._draw(place)

    def _draw(self, source: Source) -> None:
        """Draws the slates that later steps need."""
        self._source, options = source, self._options
        gated = any(target.gate for target in self._targets)
        self._prompts = Prompts.draw(source, options.quality_slates) if gated else None
        if self._prompts and not options.accept_loss:
            self._prompts.check()
        self._sampled_prompts = self._draw_sampled(source) if self._draw_sampled else []

    def load(self, checkpoint: str | Path) -> None:
        self._progress("load", 0, 1)
        options, place = self._options, self._place_of_slates
        catalog = place if isinstance(place, Catalog) else None
        labels = preflight.labels_of(catalog, options.label_ids)
        self._loaded = loaded = load_checkpoint(checkpoint, options.exits, options.head, labels, options.reranker)
        if catalog:
            preflight.check_fit(loaded, catalog, options.max_tokens)
            if not options.accept_catalog:
                preflight.check_trained_on(loaded, catalog)
            if options.with_tokenizer:
                preflight.check_tokenizer(loaded, catalog)
        else:
            assert isinstance(place, Path)
            self._draw(preflight.read_slates(place, loaded, options.max_tokens))
        self._source.roles.check(self._source.path, loaded.roles, loaded.path)
        self._catalog_sha256 = catalog.sha256 if catalog else None
        self._model = model_of(loaded)
        has_zero = self._source.has_scores if isinstance(self._source, SlatesFile) else bool(self._source.numbers)
        self._exits = (0, *loaded.exits) if has_zero else loaded.exits
        preflight.check_same_origin(self._out, self._old, self._model, self._exits, self._catalog_sha256, loaded.reranker)
        borders = zip((0, *loaded.exits), loaded.exits, strict=False)
        self._modules = [
            SegmentModule(loaded.decoder, loaded.heads, k, begin, end).eval() for k, (begin, end) in enumerate(borders)
        ]
        if catalog and (ids := catalog.vector_ids):
            self._modules[0] = SegmentWithVectors(loaded.decoder, loaded.heads, loaded.exits[0], ids.vocabulary).eval()
        parameters = sum(p.numel() for module in self._modules for p in module.parameters())
        weights = parameters * (4 + 2 * sum(target is not self._base for target in self._targets))
        self._unrotated = rotation.obstacle(loaded.decoder)
        self._turn = None if self._unrotated else rotation.orthogonal(loaded.decoder.hidden_size)
        self._vectors: Vectors | None = None
        if catalog and loaded.projectors is not None:
            embed = loaded.model.get_input_embeddings()
            self._vectors = Sources(catalog).vectors(loaded.projectors, embed, self._turn)
        tables = sum(entry.bytes for entry in catalog.files.values()) if catalog else 0
        shared = tables + (self._vectors.bytes if self._vectors else 0)
        preflight.check_space(self._out, weights + shared, "the bundle needs about")
        self._progress("load", 1, 1)
        self._clock.lap("load")

    def reference(self) -> list[GoldenSlate]:
        """Golden slates by the unsplit model. Sets `self._zero`: exit zero's log-odds of their candidates, empty without it."""
        loaded, slates = self._loaded, draw(cut(self._source, "validation"), self._options.golden_slates)
        model = MultiExitModel(loaded.decoder, loaded.heads, loaded.exits).eval()
        golden = golden_slates(model, self._source, tracked(slates, "reference", self._progress), self._vectors, self._turn)
        self._zero = zero_of(self._source, slates)
        self._clock.lap("reference")
        return golden

    def rotate(self) -> None:
        """Rotates the weights that the segments share. All precisions are rotated, as they share the vectors, too."""
        if self._turn is not None:
            rotation.rotate(self._loaded.decoder, self._loaded.heads, self._turn)
        self._clock.lap("rotation")

    def trace(self, golden: list[GoldenSlate]) -> tuple[Draft, Judged]:
        """The float32 graphs and their parity. Sets `self._chain`, which runs them."""
        self._segments_done, self._segments = 0, len(self._modules) * len({self._base, *self._targets})
        base = self._draft(self._base)
        self._progress("segments", 0, self._segments)
        base.trace(self._modules)
        self._clock.lap("segments")
        self._chain = base.chain(self._options.max_tokens, self._vectors)
        differences, self._pairs = parity.compare(self._chain, tracked(golden, "parity", self._progress))
        parity.check(differences, self._loaded.exits, self._options.tolerance)
        self._clock.lap("parity")
        return base, Judged(golden, differences, self._options.tolerance, None)

    def derive(self, base: Draft) -> list[Draft]:
        """All requested variants, including the base if it is one of them."""
        sampled = self._sample_activations()
        drafts = []
        for target in self._targets:
            draft = base if target is self._base else self._draft(target)
            if draft is not base:
                draft.derive(base, sampled)
            drafts.append(draft)
        self._clock.lap("variants")
        return drafts

    def judge(
        self, base: Draft, drafts: Sequence[Draft], parity_of_base: Judged
    ) -> tuple[list[tuple[Draft, Judged]], dict[str, ParityError]]:
        """The variants that pass and the errors of the others, whose graphs are removed. Raises the first if none passes."""
        judge = self._prompts and Judge(self._chain, self._loaded.exits, self._prompts, self._options.accept_loss, self._progress)
        self._doubt = judge.doubt() if judge else None
        passed, refused = [], dict[str, ParityError]()
        for draft in drafts:
            if not judge or draft is base:
                passed.append((draft, parity_of_base))
                continue
            try:
                chain = draft.chain(self._options.max_tokens, self._vectors)
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
        folder = self._folder
        written = tuple(
            draft.write(
                judged,
                self._zero,
                self._loaded.exits,
                self._model,
                self._catalog_sha256,
                self._options.max_tokens,
                self._pairs,
                self._unrotated,
            )
            for draft, judged in passed
        )
        if self._base not in self._targets:
            shutil.rmtree(self._place(self._base))
        if isinstance(self._source, Catalog):
            (folder / "catalog").mkdir()
            for name in ("catalog.json", *self._source.files):
                shutil.copyfile(self._source.path / name, folder / "catalog" / name)
        if self._options.with_tokenizer:
            copy_tokenizer(self._loaded, folder)
        if self._vectors:
            self._vectors.write(folder / VECTORS_FILE)
        variants, gone = carry_over(self._out, self._old, folder, [variant.name for variant in written])
        tokens = token_requests(self._source, self._loaded)
        write_manifest(folder, self._model, self._exits, variants, self._loaded.reranker, tokens, self._loaded.roles)
        total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        self._progress("write", 1, 1)
        self._clock.lap("write")
        reasons = {name: str(reason) for name, reason in refused.items()}
        slates = len(passed[0][1].slates)
        return ExportReport(
            str(self._out), self._exits, written, reasons, gone, slates, self._pairs, total, self._clock.seconds, self._doubt
        )

    def _sample_activations(self) -> Sequence[Activations]:
        """By segment; empty if no target needs any."""
        if not (prompts := self._sampled_prompts):
            return [{}] * len(self._modules)
        rows = sample(self._chain, prompts, self._progress)
        self._clock.lap("activations")
        return rows

    def _draft(self, target: Target) -> Draft:
        place = self._place(target)
        place.mkdir(parents=True)
        return Draft(target, place, self._segment_done)

    def _place(self, target: Target) -> Path:
        return self._folder / ("traced" if target not in self._targets else f"variants/{target.variant}")

    def _segment_done(self) -> None:
        self._segments_done += 1
        self._progress("segments", self._segments_done, self._segments)
