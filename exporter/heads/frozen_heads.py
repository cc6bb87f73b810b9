"""`rexit heads`: from a model with one answer, or none, and a catalog to a multi-exit checkpoint.

1. Check what can be checked before any work: options, model, catalog, disk.
2. Run training and validation slates once and keep every layer's hidden rows next to the checkpoint (`OUT.rows`). An interrupted
   run resumes from them, and so does a run with another choice of exits or targets.
3. Fit a head at every layer, choose exits (`layers`).
4. Write the checkpoint atomically: the model's files unchanged, the heads of the exits, and `heads.json` with all layers. A
   fitted head's scale becomes the norm's weight, its weights the projection.

The model's own last answer, which the checkpoint copies, comes from, in this order: the last exit of its `exits.json`, with the
decoder cut there, as an export does; a reranker's own (`rexit.exporter.checkpoints.rerankers`), after the last layer; the two
label rows of its LM head, behind its final norm.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from rexit.data.baselines import Scores, baselines, doubt_without_labels
from rexit.data.ranking import differ, doubt, noun_of
from rexit.data.slates import SIZE, cut, spread_users
from rexit.errors import CheckpointError, InputError
from rexit.exporter.checkpoints.checkpoint import EXITS, HEADS, PROJECTORS, Checkpoint, load_checkpoint, read_exits, write_exits
from rexit.exporter.checkpoints.rerankers import read_reranker
from rexit.exporter.checkpoints.sentence_modules import module_files
from rexit.exporter.checkpoints.weights import PATTERNS, decoder_model, located
from rexit.exporter.heads.hidden_rows import RowsFile, Slates, collect_rows, size
from rexit.exporter.heads.layers import LayerHead, Layers, check_choice, choose_exits, fit_layers, ranking_figures
from rexit.exporter.libraries import quiet, uses_bfloat16
from rexit.exporter.model.encoder import split
from rexit.exporter.model.multi_exit import ExitHeads
from rexit.exporter.options import ExportOptions, HeadsOptions
from rexit.exporter.preflight import (
    check_fit,
    check_one_source,
    check_space,
    check_trained_on,
    labels_of,
    open_catalog,
    read_slates,
)
from rexit.exporter.prompt.pieces import fingerprint, load_tokenizer
from rexit.exporter.source import Source, zero_of
from rexit.format.bundle import Catalog, new_folder, write_json
from rexit.format.bundle.files import SCHEMA, json_values
from rexit.format.bundle.manifest import TOKENIZER
from rexit.progress import Clock, Progress, silent

MODEL_FILES = (*PATTERNS, "*.json", "*.model", "*.txt", "*.jinja")
"""Weights, configs, tokenizer."""
NO_LIMIT = 1 << 62


def load_base(
    source: str | Path, labels: Mapping[str, int] | None, reranker: str | None = None
) -> tuple[Checkpoint, ExitHeads | None]:
    """Loads a folder, also a PEFT adapter's, a GGUF file, or a model from the Hub.

    Args:
        source: path or Hub id.
        labels: the catalog's labels; None: the model names them, or has no LM head that answers.
        reranker: see `load_checkpoint`.

    Returns:
        The model, whose heads are not used, and its last answer as one head; None if it has none.

    Raises:
        CheckpointError: it is missing, truncated, of an unsupported kind, or was trained with other labels.
    """
    folder = located(source)
    if read_exits(folder):
        checkpoint = load_checkpoint(folder, labels=labels, reranker=reranker)
        return checkpoint, checkpoint.heads.pick([len(checkpoint.exits) - 1])
    form = read_reranker(folder, reranker)
    if form:
        checkpoint = load_checkpoint(folder, form.exits[-1:], labels=labels, reranker=reranker)
        return checkpoint, checkpoint.heads
    with quiet():
        decoder = split(decoder_model(folder))
    depth = len(decoder.layers)
    own: ExitHeads | None
    try:
        own = None if labels is None else ExitHeads.shared(decoder, 1, labels)
    except CheckpointError:  # no LM head of this width, or no rows for these labels
        own = None
    heads = ExitHeads.like(decoder, 1)
    return Checkpoint(folder, decoder, (depth,), heads, "own", dict(labels or {}), None, None), own


def check_base(base: Checkpoint, catalog: Catalog, accept_catalog: bool) -> None:
    """The catalog's tokens and prompts fit the model, and it brings projectors for all vectors in them. Raises InputError."""
    if catalog.vector_ids is not None and base.projectors is None:
        raise InputError(
            f"{base.path}: has no projectors, and the prompts of {catalog.path} have vectors, which a frozen model never learned "
            "to read: train it with `rexit train`, or use a template of words alone"
        )
    check_fit(base, catalog, NO_LIMIT)
    if accept_catalog:
        return
    check_trained_on(base, catalog)
    if (base.path / TOKENIZER).is_file() and fingerprint(load_tokenizer(str(base.path))) != catalog.info["tokenizer"]["sha256"]:
        raise InputError(
            f"{base.path / TOKENIZER}: is another tokenizer than that of {catalog.path}: index with the model's own; "
            "--accept-catalog goes on all the same"
        )


def write_checkpoint(base: Checkpoint, folder: Path, exits: Sequence[int], heads: ExitHeads, source: Source) -> None:
    """Copies the model's own files and writes new heads to the same folder. A GGUF file's weights are written in float32.

    source: whose users fitted and chose.
    """
    if base.path.is_dir():
        for path in sorted(_model_files(base.path)):
            shutil.copyfile(path, folder / path.name)
        for name in module_files(base.path):
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(base.path / name, folder / name)
    else:
        with quiet():
            decoder_model(base.path).save_pretrained(folder)  # again: a forward pass in bfloat16 rounded the one in memory
    save_file(heads.tensors(), folder / HEADS)
    projectors = None if base.projectors is None else base.projectors.kinds
    traits = source.traits if isinstance(source, Catalog) else None
    write_exits(folder, exits, base.labels, traits, projectors, base.reranker, source.roles.rule)


def checkpoint_bytes(base: Checkpoint) -> int:
    """Bytes that `write_checkpoint` writes of the model."""
    if base.path.is_dir():
        return sum(path.stat().st_size for path in _model_files(base.path))
    return sum(4 * parameter.numel() for parameter in base.model.parameters())


def _model_files(folder: Path) -> Iterable[Path]:
    replaced = (EXITS, HEADS) if (folder / EXITS).is_file() else (EXITS, HEADS, PROJECTORS)
    return {path for pattern in MODEL_FILES for path in folder.glob(pattern) if path.is_file() and path.name not in replaced}


@torch.no_grad()
def exit_heads(base: Checkpoint, own: ExitHeads | None, fit: Layers, exits: Sequence[int]) -> ExitHeads:
    """Assembles the heads.

    Args:
        base: the model.
        own: the model's own last answer; None if it has none.
        fit: every layer's heads.
        exits: depths in layers.
    """
    heads = ExitHeads.like(base.decoder, len(exits))
    for k, depth in enumerate(exits):
        if (head := fit.at(depth).head) is None:
            assert own is not None
            heads.norms[k], heads.projections[k] = own.norms[0], own.projections[0]
            continue
        for name, parameter in heads.norms[k].named_parameters():
            parameter.copy_(torch.from_numpy(head.scale) if name == "weight" else torch.zeros_like(parameter))
        projection: Any = heads.projections[k]
        weight = torch.from_numpy(head.weight)
        projection.weight.copy_(torch.stack([-weight, weight]) / 2)
        projection.bias.copy_(torch.tensor([-head.bias, head.bias]) / 2)
    return heads.cpu()


TABLE = "heads.json"


@dataclass(frozen=True)
class HeadsReport:
    """The result of a fit.

    own_is_last: whether the model's own last answer is the last exit's head.
    layers: a row of figures for each layer, as in `heads.json`.
    own: the same for the model's own last answer; None if it has none.
    prior_loss: loss of one probability for all candidates. candidates: their number in each split.
    rows, rows_bytes: path and size of the hidden rows, which may be deleted. seconds: duration of each stage.
    baselines: a row of figures for each baseline of the same users (`rexit.data.baselines`).
    doubt: why the last exit's ranking may be worth nothing, see `rexit.data.ranking.doubt`; None if there is no reason.
    """

    checkpoint: str
    exits: list[int]
    own_is_last: bool
    layers: list[dict[str, Any]]
    own: dict[str, Any] | None
    prior_loss: float
    candidates: dict[str, int]
    rows: str
    rows_bytes: int
    seconds: dict[str, float]
    baselines: list[dict[str, Any]]
    doubt: str | None

    def to_json(self) -> dict[str, Any]:
        """The output of `rexit heads --json`."""
        return asdict(self)


def fit_heads(
    model: str | Path,
    catalog: Path | None,
    out: Path,
    options: HeadsOptions | None = None,
    *,
    slates: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
    progress: Progress = silent,
) -> HeadsReport:
    """Fits heads on a frozen model and writes the checkpoint `out` atomically.

    Args:
        model: folder, PEFT adapter's folder, GGUF file or Hub id.
        catalog: a catalog made with the model's tokenizer; None if there are `slates`.
        out: the checkpoint's folder.
        options: None: the defaults.
        slates: a file of slates instead of a catalog.
        say: called with lines about the forward pass: what it writes, how much is done, the time left.
        progress: called with a stage, the steps done and the steps in all.

    Raises:
        InputError, CheckpointError, BundleError: a check of step 1 fails.
    """
    options = options or HeadsOptions()
    options.check()
    check_one_source(catalog, slates)
    opened = None if catalog is None else open_catalog(catalog)
    out, clock = Path(out), Clock()
    if out.exists() and not (out / EXITS).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: exists and is not a multi-exit checkpoint; it would be replaced, so choose another place")
    progress("load", 0, 1)
    base, own = _load_model(model, opened, options)
    progress("load", 1, 1)
    source = opened or read_slates(cast(Path, slates), base, ExportOptions.max_tokens)
    train, validation, scores = _slates(source, base, own, options, progress)
    clock.lap("load")
    layers, candidates = len(base.decoder.layers), len(train.liked) + len(validation.liked)
    sizes = (layers, candidates, base.decoder.hidden_size)
    folder = out.with_name(out.name + ".rows")
    needed = checkpoint_bytes(base) + (0 if folder.exists() else size(*sizes))
    check_space(out, needed, f"the checkpoint and hidden rows of {candidates} candidates (--max-slates bounds them) need")
    tokens = sum(int(part.data.lengths.sum()) for part in (train, validation))
    say(f"{candidates} candidates in {tokens} tokens; their rows at {layers} layers take {size(*sizes) / 1e6:.0f} MB in {folder}")
    file = _collect(folder, sizes, base, own, source, (train, validation), options, say, progress)
    labelled = _labelled(source)
    if not labelled:
        say("No labels: heads learn the model's own answer, and hold its ranking, which is not the truth.")
        _check_answers(file, (train, validation), base)
    clock.lap("forward")
    fit = fit_layers(file, train, validation, options.keep_last, progress, labelled=labelled)
    rows = [fit.at(depth) for depth in range(1, layers + 1)]
    losses, misranked = np.stack([row.losses for row in rows]), np.stack([row.misranked for row in rows])
    exits = choose_exits(options.exits, losses, float(fit.prior_losses.mean()), bool(options.keep_last), misranked)
    clock.lap("heads")
    heads = exit_heads(base, own, fit, exits)
    report = HeadsReport(
        checkpoint=str(out),
        exits=exits,
        own_is_last=fit.own_is_last and exits[-1] == len(fit.heads),
        layers=[head.to_json() for head in fit.heads],
        own=None if fit.own is None else fit.own.to_json(),
        prior_loss=float(fit.prior_losses.mean()),
        **_compared(
            fit.at(exits[-1]),
            validation,
            scores,
            None if labelled else file.answer[validation.rows],
            noun_of(isinstance(source, Catalog)),
        ),
        candidates={"train": len(train.liked), "validation": len(validation.liked)},
        rows=str(folder),
        rows_bytes=size(*sizes),
        seconds=clock.seconds,
    )
    with new_folder(out) as new:
        write_checkpoint(base, new, exits, heads, source)
        clock.lap("write")
        table = {name: value for name, value in report.to_json().items() if name not in ("checkpoint", "rows", "rows_bytes")}
        write_json(new / TABLE, {"schema": SCHEMA, **json_values(table)})
    return report


def _load_model(model: str | Path, catalog: Catalog | None, options: HeadsOptions) -> tuple[Checkpoint, ExitHeads | None]:
    """The model, which fits the catalog and the options, and its last answer; None if it has none."""
    base, own = load_base(model, labels_of(catalog, options.label_ids), options.reranker)
    if catalog is not None:
        check_base(base, catalog, options.accept_catalog)
    check_choice(options.exits, len(base.decoder.layers), bool(options.keep_last))
    if own is None and options.keep_last:
        raise InputError(
            f"{base.path}: has no last answer for --keep-last: no {EXITS}, no classifier's score, and no LM head with rows "
            "for the labels"
        )
    return base, own


def _slates(
    source: Source, base: Checkpoint, own: ExitHeads | None, options: HeadsOptions, progress: Progress
) -> tuple[Slates, Slates, Scores]:
    """Training slates, validation slates, and the baselines' scores of the latter."""
    source.roles.check(source.path, base.roles, base.path)
    train = Slates.of(source, "train", options.max_slates, 0, progress)
    validation = Slates.of(source, "validation", options.validation_slates, len(train.liked), progress)
    progress("baselines", 0, 1)
    held_out = spread_users(cut(source, "validation", SIZE), options.validation_slates)
    scores = baselines(source, held_out, zero=zero_of(source, held_out))
    progress("baselines", 1, 1)
    if _labelled(source):
        _check_classes(train)
    elif own is None:
        raise InputError(f"{source.path}: has no labels, and {base.path} no answer of its own to fit heads to")
    return train, validation, scores


def _labelled(source: Source) -> bool:
    return isinstance(source, Catalog) or source.labelled


def _collect(
    folder: Path,
    sizes: tuple[int, int, int],
    base: Checkpoint,
    own: ExitHeads | None,
    source: Source,
    parts: tuple[Slates, Slates],
    options: HeadsOptions,
    say: Callable[[str], None],
    progress: Progress,
) -> RowsFile:
    """Runs the slates, or reads the rows of an earlier run. sizes: layers, candidates, width."""
    (train, validation), bfloat16 = parts, uses_bfloat16(options.precision)
    origin = {
        "model": base.sha256(),
        "catalog" if isinstance(source, Catalog) else "slates": source.sha256,
        "training slates": len(train.data.rows),
        "validation slates": len(validation.data.rows),
        "training prompts": train.prompts,
        "validation prompts": validation.prompts,
        "label ids": dict(base.labels),
        "batch tokens": options.batch_tokens,
        "precision": "bfloat16" if bfloat16 else "float32",
    }
    return collect_rows(
        base, own, parts, lambda: RowsFile.open(folder, origin, *sizes), options.batch_tokens, bfloat16, say, progress
    )


def _check_answers(file: RowsFile, parts: Sequence[Slates], base: Checkpoint) -> None:
    if not any(differ(file.answer[part.rows], part.users) for part in parts):
        raise InputError(f"{base.path}: gives all candidates of a user the same score, so there is nothing to fit heads to")


def _compared(head: LayerHead, part: Slates, scores: Scores, answer: NDArray[np.float32] | None, noun: str) -> dict[str, Any]:
    """The baselines of the users who do not choose, and what they say of the last exit's head. answer: see `ranking_figures`."""
    others = ~part.chooses
    users, liked = part.users[others], part.liked[others]
    known = {name: score[others] for name, score in scores.items()}
    figures = ranking_figures(part, answer)
    return {
        "baselines": [{"name": name, **figures(score)} for name, score in known.items()],
        "doubt": doubt(head.log_odds[others], known, users, liked, noun)
        if answer is None
        else doubt_without_labels(head.log_odds[others], known, users, noun),
    }


def _check_classes(train: Slates) -> None:
    if train.liked.all() or not train.liked.any():
        kind = "liked" if train.liked[0] else "not liked"
        raise InputError(f"train: all {len(train.liked)} candidates are {kind}, expected likes and others to fit heads on")
