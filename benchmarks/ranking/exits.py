"""Every exit of a fine-tuned model on a catalog's held-out splits: validation with intervals, and test pairs for the baselines.

    python benchmarks/ranking/exits.py FOLDER [--variant cpu-int8]
    python benchmarks/ranking/baselines.py FOLDER/catalog --scored "5 layers=FOLDER/exits/5.parquet" …

    FOLDER/catalog
    FOLDER/bundle        with --variant: the runtime scores
    FOLDER/checkpoint    without: PyTorch, float32

Writes FOLDER/exits: {validation,test}.npy, every exit's log-odds in the split's order, float32 [pairs, exits], which a second run
reuses; and LAYERS.parquet for each exit, the test pairs with probabilities by a Platt map that is fitted on validation.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "movielens"))
from judgement import Judgement
from train import packed_slates

import rexit
from rexit.bundle import Catalog
from rexit.calibration.maps import fit
from rexit.calibration.traces import collect
from rexit.errors import script
from rexit.exporter.checkpoints.checkpoint import load_checkpoint
from rexit.exporter.model.multi_exit import MultiExitModel
from rexit.slates import SIZE, cut

LogOdds = NDArray[np.float32]
SPLITS = ("validation", "test")
BATCH = 8
"""Slates scored at once."""


def log_odds(folder: Path, catalog: Catalog, variant: str | None, slate: int) -> tuple[list[int], dict[str, LogOdds]]:
    """Returns the depths of the exits, and each split's log-odds."""
    out = folder / "exits"
    out.mkdir(exist_ok=True)
    if variant is None:
        loaded = load_checkpoint(folder / "checkpoint", None, None, catalog.labels)
        depths = list(loaded.exits)
        model = MultiExitModel(loaded.decoder, loaded.heads, loaded.exits, loaded.projectors)
    else:
        session = rexit.open(folder / "bundle", variant)
        depths = [info.layers for info in session.exits]
    figures = {}
    for split in SPLITS:
        path = out / f"{split}.npy"
        if not path.exists():
            if variant is None:
                np.save(path, scored(model, catalog, split, slate))
            else:
                np.save(path, collect(session, cut(catalog, split, slate)))
        figures[split] = np.load(path)
    return depths, figures


@torch.no_grad()
def scored(model: MultiExitModel, catalog: Catalog, split: str, slate: int) -> LogOdds:
    """Returns every exit's log-odds of a split's pairs, in the split's order, [pairs, exits]."""
    data = packed_slates(catalog, split, slate)
    model.eval()
    order = np.argsort(data.lengths)
    log_odds_by_row: dict[int, LogOdds] = {}
    for chosen in np.array_split(order, -(-len(order) // BATCH)):
        logits = model(*data.inputs(model, chosen.tolist())).numpy()
        ends = np.cumsum([len(data.rows[n].liked) for n in chosen])[:-1]
        log_odds_by_row |= zip(chosen.tolist(), np.split((logits[..., 1] - logits[..., 0]).T, ends), strict=True)
    return np.concatenate([log_odds_by_row[n] for n in range(len(data.rows))])


def write_pairs(catalog: Catalog, validation: LogOdds, test: LogOdds, out: Path) -> None:
    """Writes the test pairs with one exit's probability, by a Platt map that is fitted on validation.

    validation, test: the exit's log-odds of each split.
    """
    platt, rows = fit(validation, catalog.split("validation").liked), catalog.split("test")
    frame = {"user_id": catalog.users.take(rows.users), "item_id": catalog.items.take(rows.items)}
    probability = 1 / (1 + np.exp(-(platt.a * test.astype(np.float64) + platt.b)))
    pl.DataFrame({**frame, "probability": probability}).write_parquet(out)


def table(catalog: Catalog, depths: list[int], z: LogOdds) -> Table:
    rows = catalog.split("validation")
    judgement = Judgement(rows.users, rows.liked)
    overview = Table(title=f"Validation: {len(rows)} pairs (95 % intervals over users)", title_justify="left")
    for column in ("layers", "AUC", "user AUC", "NDCG@10"):
        overview.add_column(column, justify="right")
    for depth, column in zip(depths, z.T, strict=True):
        measured = judgement.of(column).interval()
        overview.add_row(str(depth), *("{:.4f} ({:.4f} to {:.4f})".format(*measured[m]) for m in ("auc", "user_auc", "ndcg@10")))
    return overview


@script
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--variant", help="of FOLDER/bundle; without it FOLDER/checkpoint is scored")
    parser.add_argument("--slate", type=int, default=SIZE, help=f"candidates scored together ({SIZE})")
    args = parser.parse_args()
    catalog = Catalog.open(args.folder / "catalog")
    depths, z = log_odds(args.folder, catalog, args.variant, args.slate)
    for k, depth in enumerate(depths):
        write_pairs(catalog, z["validation"][:, k], z["test"][:, k], args.folder / "exits" / f"{depth}.parquet")
    Console(highlight=False, width=120).print(table(catalog, depths, z["validation"]))


if __name__ == "__main__":
    main()
