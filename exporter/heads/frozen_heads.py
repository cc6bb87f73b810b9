"""`rexit heads`: from a model with one answer, or none, and a catalog to a multi-exit checkpoint.

1. Check what can be checked before any work: options, model, catalog, disk.
2. Run training and validation slates once and keep every layer's hidden rows next to the checkpoint (`OUT.rows`). An interrupted
   run resumes from them, and so does a run with another choice of exits or targets.
3. Fit a head at every layer (`layers`), choose exits (`choose`).
4. Write the checkpoint, whole or not at all: the model's files unchanged, the heads of the exits, and `heads.json` with all
   layers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from rexit.baselines import Scores, baselines, doubt_without_labels
from rexit.bundle import Catalog, new_folder, write_json
from rexit.bundle.files import SCHEMA, json_values
from rexit.errors import InputError
from rexit.exporter.checkpoints.checkpoint import EXITS
from rexit.exporter.clock import Clock
from rexit.exporter.heads.choose import check_choice, choose_exits
from rexit.exporter.heads.frozen_base import check_base, checkpoint_bytes, exit_heads, load_base, write_checkpoint
from rexit.exporter.heads.hidden_rows import RowsFile, Slates, collect_rows, size, uses_bfloat16
from rexit.exporter.heads.layers import LayerHead, fit_layers, ranking_figures
from rexit.exporter.options import ExportOptions, HeadsOptions
from rexit.exporter.preflight import check_one_source, check_space, labels_of, open_catalog, read_slates
from rexit.exporter.source import zero_of
from rexit.progress import Progress, silent
from rexit.ranking import ByUser, differ, doubt, drawn_labels
from rexit.slates import SIZE, cut, spread

TABLE = "heads.json"


@dataclass(frozen=True)
class HeadsReport:
    """The result of a fit.

    kept: whether the model's own last answer is the last exit's head.
    layers: a row of figures for each layer, as in `heads.json`.
    own: the same for the model's own last answer; None if it has none.
    prior_loss: loss of one probability for all candidates. candidates: their number in each split.
    rows, rows_bytes: path and size of the hidden rows, which may be deleted. seconds: duration of each stage.
    baselines: a row of figures for each baseline of the same users (`rexit.baselines`).
    doubt: why the last exit's ranking may be worth nothing, see `rexit.ranking.doubt`; None if there is no reason.
    """

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
    """Fits heads on a frozen model and writes the checkpoint `out`, whole or not at all.

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
    if (place := Path(out)).exists() and not (place / EXITS).is_file() and (not place.is_dir() or any(place.iterdir())):
        raise InputError(f"{out}: exists and is not a multi-exit checkpoint; it would be replaced, so choose another place")
    work = _Fit(options, opened, Path(out), say, progress)
    work.load(model, slates)
    work.fit(work.collect())
    return work.write()


class _Fit:
    """The steps of `fit_heads`, in order, and their shared state."""

    def __init__(
        self, options: HeadsOptions, catalog: Catalog | None, out: Path, say: Callable[[str], None], progress: Progress
    ) -> None:
        self._options, self._catalog, self._out, self._say, self._progress = options, catalog, out, say, progress
        self._clock = Clock()

    def load(self, model: str | Path, slates: Path | None) -> None:
        """Loads the model and the slates, and checks that they fit."""
        options, catalog, progress = self._options, self._catalog, self._progress
        progress("load", 0, 1)
        self._base, self._own = base, own = load_base(model, labels_of(catalog, options.label_ids), options.reranker)
        if catalog is not None:
            check_base(base, catalog, options.accept_catalog)
        self._layers = len(base.decoder.layers)
        check_choice(options.exits, self._layers, bool(options.keep_last))
        if own is None and options.keep_last:
            raise InputError(
                f"{base.path}: has no last answer for --keep-last: no {EXITS}, no classifier's score, and no LM head with rows "
                "for the labels"
            )
        progress("load", 1, 1)
        self._source = catalog or read_slates(cast(Path, slates), base, ExportOptions.max_tokens)
        self._source.roles.check(self._source.path, base.roles, base.path)
        self._train = train = Slates.of(self._source, "train", options.max_slates, 0, progress)
        self._validation = Slates.of(self._source, "validation", options.validation_slates, len(train.liked), progress)
        progress("baselines", 0, 1)
        held_out = spread(cut(self._source, "validation", SIZE), options.validation_slates)
        self._baselines = baselines(self._source, held_out, zero=zero_of(self._source, held_out))
        progress("baselines", 1, 1)
        self._labelled = isinstance(self._source, Catalog) or self._source.labelled
        if not self._labelled and own is None:
            raise InputError(f"{self._source.path}: has no labels, and {base.path} no answer of its own to fit heads to")
        if self._labelled:
            _check_classes(train)
        self._clock.lap("load")

    def collect(self) -> RowsFile:
        """Runs the slates, or reads the rows of an earlier run."""
        base, options, parts = self._base, self._options, (self._train, self._validation)
        bfloat16 = uses_bfloat16(options.precision)
        origin = {
            "model": base.sha256(),
            "catalog" if self._catalog else "slates": self._source.sha256,
            "training slates": len(self._train.data.rows),
            "validation slates": len(self._validation.data.rows),
            "training prompts": self._train.prompts,
            "validation prompts": self._validation.prompts,
            "label ids": dict(base.labels),
            "batch tokens": options.batch_tokens,
            "precision": "bfloat16" if bfloat16 else "float32",
        }
        self._folder = folder = self._out.with_name(self._out.name + ".rows")
        sizes = (self._layers, sum(len(part.liked) for part in parts), base.decoder.hidden_size)
        self._rows_bytes = size(*sizes)
        needed = checkpoint_bytes(base) + (0 if folder.exists() else self._rows_bytes)
        rows = f"the checkpoint and hidden rows of {sizes[1]} candidates (--max-slates bounds them) need"
        check_space(self._out, needed, rows)
        tokens = sum(int(part.data.lengths.sum()) for part in parts)
        self._say(
            f"{sizes[1]} candidates in {tokens} tokens; their rows at {self._layers} layers take "
            f"{self._rows_bytes / 1e6:.0f} MB in {folder}"
        )
        file = collect_rows(
            base,
            self._own,
            parts,
            lambda: RowsFile.open(folder, origin, *sizes),
            options.batch_tokens,
            bfloat16,
            self._say,
            self._progress,
        )
        if not self._labelled:
            self._say("The slates have no labels: heads are fitted to, and judged by, labels drawn from the model's own answer.")
            answers = [np.array(file.answer[part.rows]) for part in parts]
            if not any(differ(answer, part.users) for answer, part in zip(answers, parts, strict=True)):
                raise InputError(
                    f"{base.path}: gives all candidates of a user the same score, so there is nothing to fit heads to"
                )
            self._train, self._validation = (replace(p, liked=drawn_labels(a)) for p, a in zip(parts, answers, strict=True))
            _check_classes(self._train)
        self._clock.lap("forward")
        return file

    def fit(self, file: RowsFile) -> None:
        """Fits a head at every layer and chooses exits."""
        options = self._options
        self._fit = fit = fit_layers(file, self._train, self._validation, options.keep_last, self._progress)
        losses = np.stack([fit.at(depth).losses for depth in range(1, self._layers + 1)])
        self._exits = choose_exits(options.exits, losses, float(fit.prior_losses.mean()), whole=bool(options.keep_last))
        self._clock.lap("heads")

    def write(self) -> HeadsReport:
        """Writes the checkpoint and the table."""
        base, exits, fit = self._base, self._exits, self._fit
        heads = exit_heads(base, self._own, fit, exits)
        report = HeadsReport(
            checkpoint=str(self._out),
            exits=exits,
            kept=fit.kept and exits[-1] == len(fit.heads),
            layers=[head.to_json() for head in fit.heads],
            own=None if fit.own is None else fit.own.to_json(),
            prior_loss=float(fit.prior_losses.mean()),
            **_compared(fit.at(exits[-1]), self._validation, self._baselines, self._labelled),
            candidates={"train": len(self._train.liked), "validation": len(self._validation.liked)},
            rows=str(self._folder),
            rows_bytes=self._rows_bytes,
            seconds=self._clock.seconds,
        )
        with new_folder(self._out) as new:
            write_checkpoint(base, new, exits, heads, self._source)
            self._clock.lap("write")
            table = {name: value for name, value in report.to_json().items() if name not in ("checkpoint", "rows", "rows_bytes")}
            write_json(new / TABLE, {"schema": SCHEMA, **json_values(table)})
        return report


def _compared(head: LayerHead, part: Slates, scores: Scores, labelled: bool) -> dict[str, Any]:
    """The baselines of the users who do not choose, and what they say of the last exit's head."""
    others = ~part.chooses
    users, liked = part.users[others], part.liked[others]
    known = {name: score[others] for name, score in scores.items()}
    by_user = ByUser(users, liked)
    return {
        "baselines": [{"name": name, **ranking_figures(score, by_user, liked)} for name, score in known.items()],
        "doubt": doubt(head.log_odds[others], known, users, liked)
        if labelled
        else doubt_without_labels(head.log_odds[others], known, users),
    }


def _check_classes(train: Slates) -> None:
    if train.liked.all() or not train.liked.any():
        kind = "liked" if train.liked[0] else "not liked"
        raise InputError(f"train: all {len(train.liked)} candidates are {kind}, expected likes and others to fit heads on")
