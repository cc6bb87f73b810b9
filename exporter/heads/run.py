"""`rexit heads`: from a model with one answer, or none, and a catalog to a multi-exit checkpoint.

1. Check what can be checked before any work: options, model, catalog, disk.
2. Run training and validation slates once and keep every layer's hidden rows beside the checkpoint (`OUT.rows`). An interrupted
   run goes on there, and another choice of exits or targets starts from them.
3. Fit a head at every layer (`layers`), choose exits (`choose`).
4. Write the checkpoint, whole or not at all: the model's files as they are, the heads of the exits, and `heads.json` and
   `heads.svg` with all layers.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from rexit.bundle import new_folder, write_json
from rexit.bundle.files import SCHEMA, json_values
from rexit.errors import InputError
from rexit.exporter.heads import picture
from rexit.exporter.heads.base import check_base, checkpoint_bytes, load_base, write_checkpoint
from rexit.exporter.heads.choose import check_choice, choose_exits
from rexit.exporter.heads.forward import Slates, collect_rows, uses_bfloat16
from rexit.exporter.heads.layers import SHARES, Layers, fit_layers
from rexit.exporter.heads.rows import RowsFile, check_space, size
from rexit.exporter.model.checkpoint import EXITS, Checkpoint
from rexit.exporter.model.heads import ExitHeads
from rexit.exporter.options import ExportOptions, HeadsOptions
from rexit.exporter.preflight import check_one_source, labels_of, open_catalog, read_slates
from rexit.progress import Progress, silent

TABLE, PICTURE = "heads.json", "heads.svg"


@dataclass(frozen=True)
class HeadsReport:
    """What was fitted. layers: one row for each layer, as in `heads.json`; own: the model's last answer in the same form, None if
    it has none. kept: whether that answer is the last exit's. candidates: by part. rows_bytes: of `rows`, which may be deleted.
    seconds: by stage."""

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

    def to_json(self) -> dict[str, Any]:
        """What `rexit heads --json` prints: plain JSON values."""
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
    if own is None and (options.keep_last or options.target in ("mix", "last")):
        wish = "--keep-last" if options.keep_last else f"--target {options.target}"
        raise InputError(
            f"{base.path}: has no last answer for {wish}: no {EXITS}, no classifier's score, and no LM head with rows for the "
            "labels"
        )
    progress("load", 1, 1)
    source = opened or read_slates(cast(Path, slates), base, ExportOptions.max_tokens)
    train = Slates.of(source, "train", options.max_slates, 0, progress)
    validation = Slates.of(source, "validation", options.validation_slates, len(train.liked), progress)
    _check_classes(train)
    seconds = {"load": time.perf_counter() - began}

    folder = out.with_name(out.name + ".rows")
    bfloat16 = uses_bfloat16(options.precision)
    origin = {
        "model": base.sha256(),
        "catalog" if opened else "slates": source.sha256,
        "training slates": len(train.data.rows),
        "validation slates": len(validation.data.rows),
        "batch tokens": options.batch_tokens,
        "precision": "bfloat16" if bfloat16 else "float32",
    }
    candidates, width = len(train.liked) + len(validation.liked), base.decoder.hidden_size
    check_space(out, folder, layers, candidates, width, checkpoint_bytes(base))
    tokens = sum(int(part.data.lengths.sum()) for part in (train, validation))
    say(
        f"{candidates} candidates in {tokens} tokens; their rows at {layers} layers take "
        f"{size(layers, candidates, width) / 1e6:.0f} MB in {folder}"
    )
    began = time.perf_counter()
    file = collect_rows(
        base,
        own,
        (train, validation),
        lambda count: RowsFile.open(folder, origin, layers, count, width),
        options.batch_tokens,
        bfloat16,
        say,
        progress,
    )
    seconds["forward"] = time.perf_counter() - began

    began = time.perf_counter()
    targets = list(SHARES) if options.target == "auto" else [options.target]
    fitted = fit_layers(file, train, validation, targets, options.keep_last, progress)
    losses = np.stack([fitted.at(depth).losses for depth in range(1, layers + 1)])
    exits = choose_exits(options.exits, losses, float(fitted.prior_losses.mean()), whole=bool(options.keep_last))
    seconds["heads"] = time.perf_counter() - began

    began = time.perf_counter()
    report = HeadsReport(
        checkpoint=str(out),
        exits=exits,
        kept=fitted.kept and exits[-1] == layers,
        layers=[head.to_json() for head in fitted.heads],
        own=None if fitted.own is None else fitted.own.to_json(),
        prior_loss=float(fitted.prior_losses.mean()),
        candidates={"train": len(train.liked), "validation": len(validation.liked)},
        rows=str(folder),
        rows_bytes=size(layers, candidates, width),
        seconds=seconds,
    )
    with new_folder(out) as new:
        write_checkpoint(base, new, exits, exit_heads(base, own, fitted, exits), None if opened is None else opened.traits)
        seconds["write"] = time.perf_counter() - began
        table = {name: value for name, value in report.to_json().items() if name not in ("checkpoint", "rows", "rows_bytes")}
        write_json(new / TABLE, {"schema": SCHEMA, **json_values(table)})
        picture.draw(report.layers, report.own, exits, new / PICTURE)
    return report


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


def _check_classes(train: Slates) -> None:
    if train.liked.all() or not train.liked.any():
        kind = "liked" if train.liked[0] else "not liked"
        raise InputError(f"train: all {len(train.liked)} candidates are {kind}, expected likes and others to fit heads on")
