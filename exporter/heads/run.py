"""`rexit heads`: from a model with one answer, or none, and a catalog to a multi-exit checkpoint.

1. Check what can be checked before any work: options, model, catalog, disk.
2. Run training and validation slates once and keep every layer's hidden rows beside the checkpoint (`OUT.rows`). An interrupted
   run goes on there, and another choice of exits or targets starts from them.
3. Fit a head at every layer (`layers`), choose exits (`choose`).
4. Write the checkpoint, whole or not at all: the model's files as they are, the heads of the exits, and `heads.json` and
   `heads.svg` with all layers; of several objectives (`objectives`) a picture of each.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from rexit.bundle import new_folder, write_json
from rexit.bundle.files import SCHEMA, json_values
from rexit.errors import InputError
from rexit.exporter.checkpoints.checkpoint import EXITS, Checkpoint
from rexit.exporter.heads import picture
from rexit.exporter.heads.base import check_base, checkpoint_bytes, load_base, write_checkpoint
from rexit.exporter.heads.choose import check_choice, choose_exits
from rexit.exporter.heads.forward import Slates, collect_rows, uses_bfloat16
from rexit.exporter.heads.layers import Layers, fit_layers
from rexit.exporter.heads.objectives import fit_objectives, joined_heads, mean_losses
from rexit.exporter.heads.rows import RowsFile, check_space, size
from rexit.exporter.model.heads import ExitHeads
from rexit.exporter.options import ExportOptions, HeadsOptions
from rexit.exporter.preflight import check_one_source, labels_of, open_catalog, read_slates
from rexit.progress import Progress, silent

TABLE, PICTURE = "heads.json", "heads.svg"


@dataclass(frozen=True)
class HeadsReport:
    """What was fitted. layers: one row for each layer, as in `heads.json`; own: the model's last answer in the same form, None if
    it has none. kept: whether that answer is the last exit's. candidates: by part. rows_bytes: of `rows`, which may be deleted.
    seconds: by stage. objectives: of several, by name: `layers`, `own`, `kept` and `prior_loss` of each; `layers` above has then
    their mean losses alone, and `own` is None."""

    checkpoint: str
    exits: list[int]
    kept: bool
    layers: list[dict[str, Any]]
    own: dict[str, Any] | None
    prior_loss: float
    candidates: dict[str, int]
    rows: str
    rows_bytes: int
    seconds: dict[str, float]
    objectives: dict[str, dict[str, Any]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """What `rexit heads --json` prints: plain JSON values."""
        values = asdict(self)
        if not self.objectives:
            del values["objectives"]
        return values


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
    """Fits heads on a frozen model and writes the checkpoint `out`, whole or not at all.

    Args:
        model: folder, PEFT adapter's folder, GGUF file or Hub id.
        catalog: made with the model's tokenizer; None: there are `slates`.
        slates: a file of slates in the place of a catalog.
        say: takes lines about the forward pass: what it writes, what of it is done, how long it still takes.

    Raises:
        InputError, CheckpointError, BundleError: see the module.
    """
    options = options or HeadsOptions()
    options.check()
    check_one_source(catalog, slates)
    opened = None if catalog is None else open_catalog(catalog)
    out = Path(out)
    _check_place(out)
    began = time.perf_counter()
    progress("load", 0, 1)
    base, own = load_base(model, labels_of(opened, options.label_ids), options.reranker)
    layers = len(base.decoder.layers)
    if opened is not None:
        check_base(base, opened, options.accept_catalog)
    check_choice(options.exits, layers, bool(options.keep_last))
    if own is None and options.keep_last:
        raise InputError(
            f"{base.path}: has no last answer for --keep-last: no {EXITS}, no classifier's score, and no LM head with rows "
            "for the labels"
        )
    progress("load", 1, 1)
    source = opened or read_slates(cast(Path, slates), base, ExportOptions.max_tokens)
    train = Slates.of(source, "train", options.max_slates, 0, progress)
    validation = Slates.of(source, "validation", options.validation_slates, len(train.liked), progress)
    names = () if opened is None else opened.objectives
    for k, name in enumerate(names or [None]):
        _check_classes(train.of_objective(k) if names else train, name)
    seconds = {"load": time.perf_counter() - began}

    folder = out.with_name(out.name + ".rows")
    bfloat16 = uses_bfloat16(options.precision)
    origin = {
        "model": base.sha256(),
        "catalog" if opened else "slates": source.sha256,
        "training slates": len(train.data.rows),
        "validation slates": len(validation.data.rows),
        "training prompts": train.prompts,
        "validation prompts": validation.prompts,
        "label ids": dict(base.labels),
        "batch tokens": options.batch_tokens,
        "precision": "bfloat16" if bfloat16 else "float32",
    }
    candidates, width = len(train.liked) + len(validation.liked), base.decoder.hidden_size
    count = len(names) or 1
    check_space(out, folder, layers, candidates, width, checkpoint_bytes(base), count)
    tokens = sum(int(part.data.lengths.sum()) for part in (train, validation))
    say(
        f"{candidates} candidates in {tokens} tokens; their rows at {layers} layers take "
        f"{size(layers, candidates, width, count) / 1e6:.0f} MB in {folder}"
    )
    began = time.perf_counter()
    file = collect_rows(
        base,
        own,
        (train, validation),
        lambda rows: RowsFile.open(folder, origin, layers, rows, width, count),
        options.batch_tokens,
        bfloat16,
        say,
        progress,
    )
    seconds["forward"] = time.perf_counter() - began

    began = time.perf_counter()
    if names:
        fits = fit_objectives(file, train, validation, names, options.keep_last, progress)
        losses, prior = mean_losses(fits)
    else:
        fits = {"": fit_layers(file, train, validation, options.keep_last, progress)}
        losses = np.stack([fits[""].at(depth).losses for depth in range(1, layers + 1)])
        prior = float(fits[""].prior_losses.mean())
    exits = choose_exits(options.exits, losses, prior, whole=bool(options.keep_last))
    seconds["heads"] = time.perf_counter() - began

    began = time.perf_counter()
    tables = {name: _table(fit, exits) for name, fit in fits.items()}
    if names:
        heads = joined_heads(base, own, fits, exits)
        means = [{"layers": depth, "loss": float(loss)} for depth, loss in enumerate(losses.mean(1), 1)]
        kept = all(part["kept"] for part in tables.values())
        whole: dict[str, Any] = {"layers": means, "own": None, "kept": kept, "prior_loss": prior}
    else:
        heads, whole = exit_heads(base, own, fits[""], exits), tables[""]
    report = HeadsReport(
        checkpoint=str(out),
        exits=exits,
        **whole,
        candidates={"train": len(train.liked), "validation": len(validation.liked)},
        rows=str(folder),
        rows_bytes=size(layers, candidates, width, count),
        seconds=seconds,
        objectives=tables if names else {},
    )
    with new_folder(out) as new:
        write_checkpoint(base, new, exits, heads, None if opened is None else opened.traits)
        seconds["write"] = time.perf_counter() - began
        table = {name: value for name, value in report.to_json().items() if name not in ("checkpoint", "rows", "rows_bytes")}
        write_json(new / TABLE, {"schema": SCHEMA, **json_values(table)})
        for name, drawn in tables.items():
            picture.draw(drawn["layers"], drawn["own"], exits, new / (f"heads-{name}.svg" if name else PICTURE))
    return report


def _table(fit: Layers, exits: Sequence[int]) -> dict[str, Any]:
    """What `heads.json` says of an objective."""
    return {
        "kept": fit.kept and exits[-1] == len(fit.heads),
        "layers": [head.to_json() for head in fit.heads],
        "own": None if fit.own is None else fit.own.to_json(),
        "prior_loss": float(fit.prior_losses.mean()),
    }


def exit_heads(base: Checkpoint, own: ExitHeads | None, layers: Layers, exits: list[int]) -> ExitHeads:
    """The heads of the exits, as the format has them: the fitted scale is the norm's weight."""
    heads = ExitHeads.like(base.decoder, len(exits))
    with torch.no_grad():
        for k, depth in enumerate(exits):
            layer = layers.at(depth)
            if layer.head is None:
                assert own is not None
                heads.norms[k], heads.projections[k] = own.norms[0], own.projections[0]
                continue
            norm, projection = heads.norms[k], heads.projections[k]
            assert isinstance(projection, nn.Linear)
            for name, parameter in norm.named_parameters():
                parameter.copy_(torch.from_numpy(layer.head.scale) if name == "weight" else torch.zeros_like(parameter))
            weight = torch.from_numpy(layer.head.weight)
            projection.weight.copy_(torch.stack([-weight, weight]) / 2)
            projection.bias.copy_(torch.tensor([-layer.head.bias, layer.head.bias]) / 2)
    return heads.cpu()


def _check_place(out: Path) -> None:
    """Only a checkpoint or an empty folder is replaced. Raises InputError."""
    if out.exists() and not (out / EXITS).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: exists and is not a multi-exit checkpoint; it would be replaced, so choose another place")


def _check_classes(train: Slates, objective: str | None) -> None:
    if train.liked.all() or not train.liked.any():
        kind = "unknown" if not len(train.liked) else "liked" if train.liked[0] else "not liked"
        of = f"objective {objective!r}: " if objective else ""
        raise InputError(f"{of}train: all {len(train.liked)} candidates are {kind}, expected likes and others to fit heads on")
