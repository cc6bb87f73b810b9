"""`rexit export`: from a checkpoint and a catalog, or a file of slates, to a bundle with one or more variants.

1. Check options, exits, tokenizer, prompt lengths, the output folder and its free space.
2. Sample golden slates from the validation split and score them with the unsplit PyTorch model.
3. Rotate the model (`rexit.exporter.model.rotation`) if it can be rotated.
4. Trace the segments once, in float32 and at the target's opset, one graph each, and run them on the golden slates. If any
   log-odds are more than `tolerance` away from PyTorch's, nothing is written.
5. Derive every variant from these graphs by its target's passes, some of which need activations on real prompts.
6. Judge the variants. A variant of lower precision must pass its gate on validation prompts (`rexit.exporter.gate.quality`), and
   all ways of running it must agree on the golden slates. An exit that does not pass is left out: the segments around it are
   traced as one. Variants whose last exit fails are not written; if none passes, nothing is.
7. Write the manifests. Only then does the folder become the bundle.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rexit.data.slates import TokenSlate, cut, draw
from rexit.data.slates_file import SlatesFile
from rexit.errors import InputError, ParityError
from rexit.exporter import preflight
from rexit.exporter.assembly import Draft, VariantReport, carry_over, copy_tokenizer, model_of, token_requests, write_manifest
from rexit.exporter.checkpoints.checkpoint import Checkpoint, load_checkpoint
from rexit.exporter.gate import parity
from rexit.exporter.gate.parity import golden_slates
from rexit.exporter.gate.quality import Judge, Judged, Prompts, judge
from rexit.exporter.graph.chain import Activations, Chain, sample
from rexit.exporter.graph.segment import SegmentModule
from rexit.exporter.graph.targets import Target
from rexit.exporter.model import rotation
from rexit.exporter.model.multi_exit import MultiExitModel
from rexit.exporter.options import ExportOptions
from rexit.exporter.prompt.builder import Prompt
from rexit.exporter.source import Source, zero_of
from rexit.exporter.zero import Graph, fitted_zero, stage_numbers
from rexit.format.bundle import Catalog, Manifest, Model, new_folder, sole_writer
from rexit.format.bundle.catalog import ZERO
from rexit.format.bundle.golden import GoldenSlate
from rexit.progress import DETAIL, Clock, Progress, silent, tracked


@dataclass(frozen=True)
class ExportReport:
    """The result of an export.

    bundle: its path. exits: depths in layers, 0 first with exit zero. variants: those written. refused: why others were not
        written, by name.
    gone: by replaced variant, its files and folders that went with it, such as its policy. slates, pairs: run for parity.
    bytes: size of the bundle, including older variants. seconds: duration of each stage.
    doubt: if a gate applied, why the model's ranking may be useless (`rexit.data.ranking.doubt`).
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
    """Writes a bundle atomically.

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
    place = slates if catalog is None else preflight.open_catalog(catalog)
    assert place is not None
    out, clock = Path(out), Clock()
    with contextlib.ExitStack() as locks, new_folder(out) as folder:
        locks.enter_context(sole_writer(out))  # until the new bundle is in place
        old = preflight.existing(out)
        samples = _Samples.of(place, targets, options) if isinstance(place, Catalog) else None  # before the model is loaded
        progress("load", 0, 1)
        loaded = _load(checkpoint, place, samples, targets, old, out, options)
        progress("load", 1, 1)
        clock.lap("load")
        golden, zero = _reference(loaded, folder, options, progress)
        preflight.check_same_zero(out, old, folder / ZERO)
        clock.lap("reference")
        if loaded.turn is not None:  # all precisions are rotated, as they share the base
            rotation.rotate(loaded.checkpoint.decoder, loaded.checkpoint.heads, loaded.turn)
        clock.lap("rotation")
        targets = [target for target in targets if target.variant not in loaded.samples.refused]
        base_target = targets[0].base or targets[0]  # all precisions of a target share a base
        depths, model = loaded.checkpoint.exits, loaded.model
        make = _DraftMaker(folder, targets, len(depths) * len({base_target, *targets}), progress)
        progress("segments", 0, make.segments)
        base = _Base.trace(make.draft(base_target), loaded, depths, golden, options, progress, clock)
        drafts = [base.draft if target is base_target else make.draft(target) for target in targets]
        for draft in drafts:
            if draft is not base.draft:
                draft.derive(base.draft, base.sampled)
        clock.lap("variants")
        verdicts = _judged(loaded, base, make, drafts, options, progress, clock)
        clock.lap("quality")
        progress("write", 0, 1)
        written = tuple(
            draft.write(judged, zero, model, loaded.catalog_sha256, options.max_tokens, base.pairs, loaded.unrotated)
            for draft, judged in verdicts.passed
        )
        if base_target not in targets:
            shutil.rmtree(base.draft.folder)
        gone = _write(folder, loaded, [variant.name for variant in written], old, out, options)
        total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        progress("write", 1, 1)
        clock.lap("write")
        return ExportReport(
            str(out),
            loaded.exits,
            written,
            {**loaded.samples.refused, **verdicts.refused},
            gone,
            len(verdicts.passed[0][1].slates),
            base.pairs,
            total,
            clock.seconds,
            verdicts.doubt,
        )


@dataclass(frozen=True)
class _Samples:
    """The slates that later steps need. prompts: of the gate; None: no target has one, or they are too few. refused: then the
    targets with a gate, by the reason. sampled: whose activations are read."""

    source: Source
    prompts: Prompts | None
    refused: dict[str, str]
    sampled: Sequence[Prompt]

    @classmethod
    def of(cls, source: Source, targets: Sequence[Target], options: ExportOptions) -> _Samples:
        """Raises InputError: the slates are too few to judge any of the targets."""
        prompts, refused = None, dict[str, str]()
        if gated := [target.variant for target in targets if target.gate]:
            try:
                prompts = Prompts.draw(source, options.quality_slates)
                if not options.accept_loss:
                    prompts.check()
            except InputError as exc:
                if len(gated) == len(targets):
                    raise
                prompts, refused = None, dict.fromkeys(gated, str(exc))
        draw_sampled = next((t.sampled_prompts for t in targets if t.sampled_prompts and t.variant not in refused), None)
        return cls(source, prompts, refused, draw_sampled(source) if draw_sampled else [])


@dataclass(frozen=True)
class _Loaded:
    """A checkpoint and its slates, which fit together.

    model, exits: of the manifest. catalog_sha256: None without a catalog. unrotated: why the model cannot be rotated; None if it
    can, by `turn`.
    """

    checkpoint: Checkpoint
    samples: _Samples
    model: Model
    exits: tuple[int, ...]
    catalog_sha256: str | None
    unrotated: str | None
    turn: Tensor | None

    def modules(self, exits: Sequence[int]) -> list[SegmentModule]:
        """Returns the segments between some of the checkpoint's exits, which share its weights."""
        decoder, heads = self.checkpoint.decoder, self.checkpoint.heads
        modules: list[SegmentModule] = []
        for begin, end in itertools.pairwise((0, *exits)):
            k = self.checkpoint.exits.index(end)
            modules.append(SegmentModule(decoder, heads, k, begin, end).eval())
        return modules


def _load(
    path: str | Path,
    place: Catalog | Path,
    samples: _Samples | None,
    targets: Sequence[Target],
    old: Manifest | None,
    out: Path,
    options: ExportOptions,
) -> _Loaded:
    """Loads the checkpoint, draws the slates of a file, whose texts need it, and checks that all of it fits.

    place: a catalog, which `samples` has the slates of, or the path of a file of slates."""
    catalog = place if isinstance(place, Catalog) else None
    labels = preflight.labels_of(catalog, options.label_ids)
    loaded = load_checkpoint(path, options.exits, options.head, labels, options.reranker)
    if catalog:
        preflight.check_fit(loaded, catalog, options.max_tokens)
        if not options.accept_catalog:
            preflight.check_trained_on(loaded, catalog)
        if options.with_tokenizer:
            preflight.check_tokenizer(loaded, catalog)
    if samples is None:
        assert isinstance(place, Path)
        samples = _Samples.of(preflight.read_slates(place, loaded, options.max_tokens), targets, options)
    source = samples.source
    source.roles.check(source.path, loaded.roles, loaded.path)
    catalog_sha256, model = catalog.sha256 if catalog else None, model_of(loaded)
    has_zero = bool(source.score_names if isinstance(source, SlatesFile) else source.numbers)
    exits = (0, *loaded.exits) if has_zero else loaded.exits
    preflight.check_same_origin(out, old, model, exits, catalog_sha256, loaded.reranker)
    unrotated = rotation.obstacle(loaded.decoder)
    turn = None if unrotated else rotation.orthogonal(loaded.decoder.hidden_size)
    fitting = _Loaded(loaded, samples, model, exits, catalog_sha256, unrotated, turn)
    parameters = sum(p.numel() for module in fitting.modules(loaded.exits) for p in module.parameters())
    base = targets[0].base or targets[0]
    weights = parameters * (4 + 2 * sum(target is not base for target in targets))
    tables = sum(entry.bytes for entry in catalog.files.values()) if catalog else 0
    preflight.check_space(out, weights + tables, "the bundle needs about")
    return fitting


def _reference(
    loaded: _Loaded, folder: Path, options: ExportOptions, progress: Progress
) -> tuple[list[GoldenSlate], Sequence[NDArray[np.float32]]]:
    """Golden slates by the unsplit model, and exit zero's log-odds of their candidates, empty without it. Writes exit zero of
    slates into the folder."""
    source, checkpoint = loaded.samples.source, loaded.checkpoint
    slates = draw(cut(source, "validation"), options.golden_slates)
    model = MultiExitModel(checkpoint.decoder, checkpoint.heads, checkpoint.exits).eval()
    golden = golden_slates(model, source, tracked(slates, "reference", progress))
    if not isinstance(source, SlatesFile) or not source.score_names:
        return golden, zero_of(source, slates)

    def answers(slates: Sequence[TokenSlate]) -> NDArray[np.float32]:
        return np.concatenate([slate.log_odds[:, -1] for slate in golden_slates(model, source, slates)])

    (folder / ZERO).write_bytes(fitted_zero(source, answers, progress))
    zero = Graph(folder / ZERO, len(source.score_names))
    return golden, [zero.log_odds(stage_numbers([slate], source.score_names)) for slate in golden]


class _DraftMaker:
    """Makes drafts in folders of their own, and counts their segments. targets: those that become variants."""

    def __init__(self, folder: Path, targets: Sequence[Target], segments: int, progress: Progress) -> None:
        self._folder, self._targets, self.segments, self._progress, self._done = folder, targets, segments, progress, 0

    def draft(self, target: Target, folder: str | None = None) -> Draft:
        place = self._folder / (folder or ("traced" if target not in self._targets else f"variants/{target.variant}"))
        place.mkdir(parents=True)
        return Draft(target, place, self._segment_done, lambda name: self._show(f"segments{DETAIL}{target.precision}, {name}"))

    def _segment_done(self) -> None:
        self._done += 1
        self._show("segments")

    def _show(self, what: str) -> None:
        self._progress(what, self._done, self.segments)


@dataclass(frozen=True)
class _Base:
    """float32 graphs that agree with PyTorch, which variants are derived from.

    exact: of the golden slates. pairs: number of candidates that were also run one by one. sampled: rows by segment.
    """

    draft: Draft
    exact: Judged
    pairs: int
    sampled: Sequence[Activations]

    @classmethod
    def trace(
        cls,
        draft: Draft,
        loaded: _Loaded,
        exits: Sequence[int],
        golden: Sequence[GoldenSlate],
        options: ExportOptions,
        progress: Progress,
        clock: Clock,
    ) -> _Base:
        """Traces the segments between exits. golden: with PyTorch's log-odds at these. Raises ParityError, CheckpointError."""
        draft.trace(loaded.modules(exits))
        clock.lap("segments")
        chain = draft.chain(options.max_tokens)
        differences, pairs = parity.compare(chain, tracked(golden, "parity", progress))
        parity.check(differences, exits, options.tolerance)
        by_kernels, _ = parity.compare(draft.chain(options.max_tokens, kernels=True), golden)
        parity.check(by_kernels, exits, parity.tolerance(differences, options.tolerance))
        allowed = parity.tolerance([*differences, *by_kernels], options.tolerance)
        clock.lap("parity")
        sampled: Sequence[Activations] = [{}] * len(exits)
        if prompts := loaded.samples.sampled:
            sampled = sample(chain, prompts, progress)
            clock.lap("activations")
        return cls(draft, Judged(list(golden), differences, allowed, None), pairs, sampled)


@dataclass(frozen=True)
class _Verdicts:
    """passed: what to write. refused: why others are not written, by name. doubt: see `ExportReport`."""

    passed: Sequence[tuple[Draft, Judged]]
    refused: dict[str, str]
    doubt: str | None


def _judged(
    loaded: _Loaded,
    base: _Base,
    make: _DraftMaker,
    drafts: Sequence[Draft],
    options: ExportOptions,
    progress: Progress,
    clock: Clock,
) -> _Verdicts:
    """Judges the variants and removes the graphs of those that fail. Raises the first one's error if none passes."""
    prompts, depths, golden = loaded.samples.prompts, loaded.checkpoint.exits, base.exact.slates

    def deployed(draft: Draft) -> Chain:
        return draft.chain(options.max_tokens, kernels=True)

    judges = prompts and Judge(deployed(base.draft), depths, prompts, progress)
    passed, refused = [], dict[str, ParityError]()
    for draft in drafts:
        if not judges or draft is base.draft:
            passed.append((draft, base.exact))
            continue
        target = draft.target
        try:
            quality = judges.assess(target, deployed(draft))
            if not options.accept_loss and (left_out := quality.dispensable()):
                remaining = [k for k, depth in enumerate(depths) if depth not in left_out]
                shutil.rmtree(draft.folder)
                slates = [replace(slate, log_odds=np.ascontiguousarray(slate.log_odds[:, remaining])) for slate in golden]
                exits, merged = [depths[k] for k in remaining], make.draft(base.draft.target, "merged")
                make.segments += 2 * len(exits)
                clock.lap("quality")
                try:
                    fewer = _Base.trace(merged, loaded, exits, slates, options, progress, clock)
                    draft = make.draft(target)
                    draft.derive(fewer.draft, fewer.sampled)
                finally:
                    shutil.rmtree(merged.folder)
                clock.lap("variants")
                quality = judges.assess(target, deployed(draft), left_out)
            quality.check(options.accept_loss)
            own = draft.chain(options.max_tokens)
            passed.append((draft, judge(target, own, deployed(draft), golden, quality)))
        except ParityError as exc:
            refused[target.variant] = exc
            shutil.rmtree(draft.folder, ignore_errors=True)  # gone if its segments were traced again
    if not passed:
        raise next(iter(refused.values()))
    return _Verdicts(passed, {name: str(error) for name, error in refused.items()}, judges.doubt() if judges else None)


def _write(
    folder: Path, loaded: _Loaded, variants: Sequence[str], old: Manifest | None, out: Path, options: ExportOptions
) -> dict[str, tuple[str, ...]]:
    """Writes what a bundle has beside its new variants. Returns what went with replaced ones, by name."""
    source, checkpoint = loaded.samples.source, loaded.checkpoint
    if isinstance(source, Catalog):
        (folder / "catalog").mkdir()
        for name in ("catalog.json", *source.files):
            shutil.copyfile(source.path / name, folder / "catalog" / name)
    if options.with_tokenizer:
        copy_tokenizer(checkpoint, folder)
    names, gone = carry_over(out, old, folder, variants)
    tokens = token_requests(source, checkpoint)
    write_manifest(folder, loaded.model, loaded.exits, names, checkpoint.reranker, tokens, checkpoint.roles)
    return gone
