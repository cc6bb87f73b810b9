"""What an exit gains by reading all heads so far: each exit's ranking by its own head and by all, side by side.

    python benchmarks/ranking/all_heads.py CATALOG --bundle BUNDLE [--variant cpu-fp32]
    python benchmarks/ranking/all_heads.py CATALOG --rows CHECKPOINT.rows [--depth 30] [--layers 4,10,15,20,25,30]

Rules
1. With a bundle: the traces that the last `rexit calibrate` left. The validation users that choose a policy fit the maps, the
   test split judges them.
2. With the rows that `rexit heads` left: heads of the given layers are fitted on the training rows, each with the ridge that is
   best for a third of the training users, left out. Two thirds of the validation users fit the maps, the others judge them, for
   each third in turn.
3. Differences are paired, with 95 % intervals over users; above 0 all heads are better, for log loss too.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

from rexit.bundle import Bundle, Catalog
from rexit.calibration import metrics
from rexit.calibration.choose import maps, platt
from rexit.calibration.metrics import Judge
from rexit.calibration.record import recording
from rexit.calibration.record.recording import Recording
from rexit.calibration.record.traces import Traces, join, split_users
from rexit.exporter.heads.fit import RIDGES, Linear, Problem, log_loss
from rexit.scripts import script
from rexit.slates import SIZE, cut, spread

METRICS = tuple(map(metrics.parse, ("auc", "user-auc", "ndcg@5", "logloss")))
GOAL = tuple(map(metrics.parse, ("ndcg@10", "user-auc")))
THIRDS = 3

Pair = tuple[NDArray[np.float32], NDArray[np.float32]]
"""c by own heads and by all, float32 [n, E]."""


def by_bundle(catalog: Catalog, bundle: Bundle) -> tuple[Traces, Pair]:
    splits = {name: cut(catalog, name, SIZE) for name in ("validation", "test")}
    made_of = {"variant_sha256": bundle.variant_sha256, "catalog_sha256": catalog.sha256, "slate": SIZE}
    pairs = {name: sum(len(slate.items) for slate in part) for name, part in splits.items()}
    recorded = Recording.read(bundle.folder / recording.FILE, len(bundle.manifest.exits), made_of, pairs)
    traces = {name: join(part, recorded.log_odds[name], name) for name, part in splits.items()}
    choosers, test = split_users(traces["validation"])[0], traces["test"]
    choice = _choose(choosers)
    return test, (platt.apply(choice.own, test.log_odds), platt.apply(choice.maps, test.log_odds))


def by_rows(catalog: Catalog, folder: Path, depth: int, layers: Sequence[int]) -> tuple[Traces, Pair]:
    origin = json.loads((folder / "rows.json").read_text())["origin"]
    train, validation = (
        _labels(catalog, split, origin[f"{name} slates"], len(layers))
        for split, name in (("train", "training"), ("validation", "validation"))
    )
    count = len(train) + len(validation)
    hidden = np.memmap(folder / "hidden.bin", np.float16, "r").reshape(depth, count, -1)
    for k, layer in enumerate(layers):
        rows = hidden[layer - 1].astype(np.float32)
        validation.log_odds[:, k] = _fit_head(rows[: len(train)], train).log_odds(rows[len(train) :])
    own, every = np.empty_like(validation.log_odds), np.empty_like(validation.log_odds)
    thirds = np.random.default_rng(0).permutation(validation.user_count) % THIRDS
    for third in range(THIRDS):
        choice = _choose(validation.of_users(thirds != third))
        judged = (thirds == third)[validation.users]
        own[judged] = platt.apply(choice.own, validation.log_odds[judged])
        every[judged] = platt.apply(choice.maps, validation.log_odds[judged])
    return validation, (own, every)


def _labels(catalog: Catalog, split: str, slates: int, exits: int) -> Traces:
    """Slates of a split with their labels, and log-odds to be filled in."""
    chosen = spread(cut(catalog, split), slates)
    return join(chosen, np.zeros((sum(len(slate.items) for slate in chosen), exits), np.float32), split)


def _fit_head(rows: NDArray[np.float32], train: Traces) -> Linear:
    left_out = train.users % THIRDS == 0
    part, target = Problem(rows[~left_out]), train.liked.astype(np.float32)
    losses, head = [], None
    for ridge in RIDGES:
        head = part.fit(target[~left_out], ridge, head)
        losses.append(log_loss(head.log_odds(rows[left_out]), train.liked[left_out]).mean())
    return Problem(rows).fit(target, RIDGES[int(np.argmin(losses))])


def _choose(choosers: Traces) -> maps.Choice:
    """The maps of all heads; says what `auto` would do."""
    auto = maps.choose(maps.AUTO, choosers, GOAL)
    assert auto.gain is not None and auto.ridge is not None
    gain, low, high = auto.gain
    print(
        f"{choosers.user_count} users, {len(choosers)} pairs: auto reads {auto.reads}; log loss lower by {gain:+.4f} "
        f"({low:+.4f} to {high:+.4f}), ridge {auto.ridge:g}"
    )
    return maps.choose(maps.ALL, choosers, GOAL)


def table(names: Sequence[str], traces: Traces, pair: Pair) -> Table:
    shown = Table("layers", *(metric.title for metric in METRICS), box=MARKDOWN)
    for k, name in enumerate(names):
        own, every = (np.ascontiguousarray(c[:, k]) for c in pair)
        judge = Judge(traces.users, traces.liked, traces.offsets, own)
        ends = judge.intervals(METRICS, every)
        cells = []
        for metric in METRICS:
            low, high = ends[metric]
            values = f"{judge.value(metric, own):.4f}, {judge.value(metric, every):.4f}"
            cells.append(f"{values}: {-judge.drop(metric, every):+.4f} ({-high:+.4f} to {-low:+.4f})")
        shown.add_row(name, *cells)
    return shown


@script
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("catalog", type=Path)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--variant")
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--depth", type=int, default=30, help="layers of the model whose rows they are")
    parser.add_argument("--layers", default="4,10,15,20,25,30", help="where its exits are")
    args = parser.parse_args()
    catalog = Catalog.open(args.catalog)
    if args.bundle is not None:
        bundle = Bundle.open(args.bundle, args.variant)
        names = [str(depth) for depth in bundle.manifest.exits]
        traces, pair = by_bundle(catalog, bundle)
    else:
        names = args.layers.split(",")
        traces, pair = by_rows(catalog, args.rows, args.depth, [int(name) for name in names])
    Console(width=240).print(table(names, traces, pair))


if __name__ == "__main__":
    main()
