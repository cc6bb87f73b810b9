"""What belongs into a prompt: templates compared by what the small model of examples/movielens makes of them.

    python benchmarks/prompts.py CATALOG --items ITEMS --users USERS --tokenizer T --work WORK [--test] TEMPLATE.toml …
    python benchmarks/prompts.py CATALOG --work WORK                                  the table of what is there

Rules
1. Every template is compiled over the tables of one catalog: LightGCN is trained once, by `rexit index`.
2. It trains as examples/movielens/train.py does, with its options, and scores slates of 20 in PyTorch and float32; exported
   graphs are equal to that within 1e-4.
3. Validation chooses. The test split is scored with --test alone, for the rows of a table.
4. A run is a folder of WORK, by template, tokenizer, catalog and settings (not by train.py's text), and is not made again:
   run.json, the checkpoint, every exit's log-odds of a split, and test.parquet, the test pairs as the last exit scores them, for
   `benchmarks/baselines.py --scored`.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from safetensors.numpy import save

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "movielens"))
from judgement import Judgement
from train import Settings, packed_slates, train

from rexit.bundle import Catalog
from rexit.bundle.catalog import TABLES
from rexit.bundle.files import FileEntry, write_file, write_json
from rexit.bundle.vectors import required
from rexit.bundle.writer import new_folder
from rexit.calibration.platt import fit
from rexit.exporter.catalog import tables
from rexit.exporter.catalog.interactions import read_entities
from rexit.exporter.model.checkpoint import load_checkpoint, save_checkpoint
from rexit.exporter.model.multi_exit import MultiExitModel
from rexit.exporter.prompt.language import Language, worded
from rexit.exporter.prompt.lengths import prompt_lengths
from rexit.exporter.prompt.pieces import fingerprint
from rexit.ranking import auc, user_auc
from rexit.slates import SIZE

LogOdds = NDArray[np.float32]
BATCH = 8
"""Slates scored at once."""


def reworded(catalog: Catalog, language: Language, users: Path, items: Path, out: Path) -> Catalog:
    """The same catalog with another template: other pieces, all else as it was."""
    entities = {
        "user": rows_of(catalog, "user", users),
        "item": rows_of(catalog, "item", items),
    }
    words = worded(language, entities["user"], entities["item"])
    info = json.loads((catalog.path / "catalog.json").read_text())
    info |= {
        "requires": required(words.prompt),
        "prompt": words.prompt,
        "labels": language.labels,
        "tokenizer": {"vocab_size": language.tokenizer.get_vocab_size(), "sha256": fingerprint(language.tokenizer)},
    }
    info["counts"]["pieces"] = len(words.pieces["offsets"]) - 1
    with new_folder(out) as folder:
        for name in (info["snapshots"]["path"], *(split["path"] for split in info["splits"].values())):
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copy(catalog.path / name, folder / name)
        for what, table in (("user", catalog.user_table), ("item", catalog.item_table)):
            kept = {name: tensor for name, tensor in table.items() if not name.startswith("field.")}
            write_file(folder / f"{what}s.safetensors", save(kept | tables.field_tensors(words.fields, what)))
        write_file(folder / "pieces.safetensors", save(words.pieces))
        info["prompt"]["lengths"] = prompt_lengths(Catalog(folder, info, {}))
        info["files"] = {name: FileEntry.of(folder / name).to_json() for name in TABLES}
        write_json(folder / "catalog.json", info)
    return Catalog.open(out)


def rows_of(catalog: Catalog, what: str, path: Path) -> pl.DataFrame:
    """The table of users or items, in the catalog's rows."""
    frame = read_entities(path, f"{what}_id", f"--{what}s")
    ids = {"user": catalog.users, "item": catalog.items}[what]
    rows = ids.rows(frame["id"].to_list(), what)
    if len(rows) != len(ids):
        sys.exit(f"prompts: {path}: {len(rows)} {what}s, the catalog has {len(ids)}")
    return frame[np.argsort(rows)]


@torch.no_grad()
def scored(model: MultiExitModel, catalog: Catalog, split: str) -> LogOdds:
    """Every exit's log-odds of a split's pairs, in the split's order, [pairs, exits]."""
    model.eval()
    data = packed_slates(catalog, split, SIZE)
    order = np.argsort(data.lengths)
    found: dict[int, LogOdds] = {}
    for chosen in np.array_split(order, -(-len(order) // BATCH)):
        logits = model(*data.inputs(model, chosen)).numpy()
        ends = np.cumsum([len(data.rows[n].liked) for n in chosen])[:-1]
        found |= zip(chosen.tolist(), np.split((logits[..., 1] - logits[..., 0]).T, ends), strict=True)
    return np.concatenate([found[n] for n in range(len(data.rows))])


def run(catalog: Catalog, template: Path, chosen: Settings, args: argparse.Namespace) -> None:
    language = Language.load(str(args.tokenizer), template)
    what = {
        "template": template.read_text(),
        "tokenizer": fingerprint(language.tokenizer),
        "catalog": catalog.sha256,
        "settings": dataclasses.asdict(chosen),
    }
    place = args.work / f"{template.stem}-{hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:8]}"
    told = json.loads((place / "run.json").read_text()) if (place / "run.json").exists() else {}
    missing = [split for split in ("validation", "test") if split not in told and (args.test or split == "validation")]
    if not missing:
        return
    print(f"{place}: {chosen}", flush=True)
    mine = reworded(catalog, language, args.users, args.items, args.work / "catalog")
    if told:
        kept = load_checkpoint(place / "checkpoint", None, None, mine.info["labels"])
        model = MultiExitModel(kept.decoder, kept.heads, kept.exits, kept.projectors)
    else:
        start = time.monotonic()
        model = train(mine, chosen)
        lengths = mine.info["prompt"]["lengths"]
        told = {"name": template.stem, **what, "seconds": time.monotonic() - start, "exits": list(model.exits)}
        told["tokens"] = {part: lengths[part]["p50"] for part in ("prefix", "candidate")}
        save_checkpoint(
            place / "checkpoint", model.model, model.exits, model.heads, mine.info["labels"], projectors=model.projectors
        )
        write_json(place / "run.json", told)
    for split in missing:
        z = scored(model, mine, split)
        np.save(place / f"{split}.npy", z)
        told[split] = figures(mine, split, z)
    if "test" in missing:
        write_pairs(mine, place)
    write_json(place / "run.json", told)


def figures(catalog: Catalog, split: str, scores: LogOdds) -> list[dict[str, float]]:
    rows = catalog.split(split)
    return [{"auc": auc(z, rows.liked), "user_auc": user_auc(z, rows.users, rows.liked)} for z in scores.T]


def write_pairs(catalog: Catalog, place: Path) -> None:
    """The test pairs with the last exit's probability, by a Platt map that is fitted on validation."""
    z = {split: np.load(place / f"{split}.npy")[:, -1] for split in ("validation", "test")}
    platt, test = fit(z["validation"], catalog.split("validation").liked), catalog.split("test")
    frame = {"user": catalog.users.take(test.users), "item": catalog.items.take(test.items)}
    probability = 1 / (1 + np.exp(-(platt.a * z["test"].astype(np.float64) + platt.b)))
    pl.DataFrame({**frame, "probability": probability}).write_parquet(place / "test.parquet")


def table(catalog: Catalog, work: Path, reference: str | None) -> Table:
    """All exits' AUC and user AUC; on test also the last exit's difference from the reference, with its interval."""
    runs = {
        path.parent: json.loads(path.read_text()) for path in sorted(work.glob("*/run.json"), key=lambda p: p.stat().st_mtime)
    }
    test = catalog.split("test")
    judgement = Judgement(test.users, test.liked)
    measured = {place: judgement.of(np.load(place / "test.npy")[:, -1]) for place, run in runs.items() if "test" in run}
    against = next((one for place, one in measured.items() if runs[place]["name"] == reference), None)
    made = Table(title=f"{catalog.path}: AUC / user AUC of each exit", title_justify="left", show_lines=True)
    for column in ("template", "settings", "tokens", "min", "validation", "test", f"last exit less {reference}"):
        made.add_column(column)
    usual = dataclasses.asdict(Settings())
    for place, run in runs.items():
        settings = " ".join(f"{key}={value}" for key, value in run["settings"].items() if value != usual[key])
        less = ""
        if against and place in measured and run["name"] != reference:
            gains = measured[place].minus(against).interval()
            less = "\n".join("{:+.4f} ({:+.4f} to {:+.4f})".format(*gains[metric]) for metric in ("auc", "user_auc"))
        tokens = " + ".join(map(str, run["tokens"].values()))
        cells = [cell(run, split) for split in ("validation", "test")]
        made.add_row(run["name"], settings, tokens, f"{run['seconds'] / 60:.1f}", *cells, less)
    return made


def cell(run: dict[str, Any], split: str) -> str:
    if split not in run:
        return ""
    return "\n".join(f"{e}: {x['auc']:.4f} / {x['user_auc']:.4f}" for e, x in zip(run["exits"], run[split], strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("catalog", type=Path, help="that `rexit index` wrote, with any template")
    parser.add_argument("templates", type=Path, nargs="*")
    parser.add_argument("--items", type=Path, help="the table of items that it was made from")
    parser.add_argument("--users", type=Path, help="the table of users")
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--test", action="store_true", help="score the test split too")
    parser.add_argument("--reference", help="the template that the others are compared with on test")
    Settings.add_options(parser)
    args = parser.parse_intermixed_args()
    if args.templates and not (args.items and args.users and args.tokenizer):
        parser.error("a template needs --items, --users and --tokenizer")
    catalog, chosen = Catalog.open(args.catalog), Settings.of(args)
    args.work.mkdir(parents=True, exist_ok=True)
    for template in args.templates:
        run(catalog, template, chosen, args)
    Console(width=170, highlight=False).print(table(catalog, args.work, args.reference))


if __name__ == "__main__":
    main()
