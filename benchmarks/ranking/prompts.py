"""What belongs into a prompt: templates compared by what the small model of examples/movielens makes of them.

    python benchmarks/ranking/prompts.py CATALOG --items ITEMS --users USERS --tokenizer T --work WORK [--test] TEMPLATE.toml …
    python benchmarks/ranking/prompts.py CATALOG --work WORK                                  the table of what is there

Rules
1. Every template is compiled over the tables of one catalog: LightGCN is trained once, by `rexit index`.
2. It trains as examples/movielens/train.py does, with its options, and scores slates of 20 in PyTorch and float32; exported
   graphs are equal to that within 1e-4.
3. Validation chooses. The test split is scored with --test alone, for the rows of a table.
4. A run is a folder of WORK, by template, tokenizer, catalog and settings (not by train.py's text), and is not made again:
   run.json; the catalog with the template and the checkpoint, for `rexit export`; every exit's log-odds of a split; and
   test.parquet, the test pairs as the last exit scores them, for `benchmarks/ranking/baselines.py --scored`.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from safetensors.numpy import save

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "movielens"))
from judgement import TOP, Judgement, mean
from train import Settings, packed_slates, train

from rexit.bundle import Catalog
from rexit.bundle.catalog import TABLES
from rexit.bundle.files import FileEntry, write_file, write_json
from rexit.bundle.vectors import required
from rexit.bundle.writer import new_folder
from rexit.calibration.choose.platt import fit
from rexit.exporter.catalog import encoded, tables
from rexit.exporter.catalog.entities import read_entities
from rexit.exporter.model.checkpoint import load_checkpoint, save_checkpoint
from rexit.exporter.model.multi_exit import MultiExitModel
from rexit.exporter.model.training import Rows
from rexit.exporter.prompt.language import Language, compile_template
from rexit.exporter.prompt.lengths import prompt_lengths
from rexit.exporter.prompt.pieces import fingerprint
from rexit.exporter.prompt.template import read_template
from rexit.ranking import ByUser, auc
from rexit.scripts import script
from rexit.slates import SIZE

LogOdds = NDArray[np.float32]
BATCH = 8
"""Slates scored at once."""
WIDTH = 190
"""Of the tables, in columns."""


def reworded(catalog: Catalog, language: Language, users: Path, items: Path, out: Path) -> Catalog:
    """The catalog with another template: new pieces and columns of vectors, everything else copied."""
    entities = {
        "user": rows_of(catalog, "user", users),
        "item": rows_of(catalog, "item", items),
    }
    compiled = compile_template(language, entities["user"], entities["item"])
    info = json.loads((catalog.path / "catalog.json").read_text())
    info |= {
        "requires": required(compiled.prompt),
        "prompt": compiled.prompt,
        "labels": language.labels,
        "tokenizer": {"vocab_size": language.tokenizer.get_vocab_size(), "sha256": fingerprint(language.tokenizer)},
    }
    info["counts"]["pieces"] = len(compiled.pieces["offsets"]) - 1
    info.pop("encoded", None)
    splits = info.pop("splits")
    with new_folder(out) as folder:
        info |= {
            **encoded.write(folder, compiled.encoded),
            "splits": splits,
            "files": info.pop("files"),
        }  # as `rexit index` has them
        for name in (info["snapshots"]["path"], *(split["path"] for split in splits.values())):
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copy(catalog.path / name, folder / name)
        for what, table in (("user", catalog.user_table), ("item", catalog.item_table)):
            unchanged = {name: tensor for name, tensor in table.items() if not name.startswith("field.")}
            write_file(folder / f"{what}s.safetensors", save(unchanged | tables.field_tensors(compiled.fields, what)))
        write_file(folder / "pieces.safetensors", save(compiled.pieces))
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
def scored(model: MultiExitModel, catalog: Catalog, split: str, slate: int = SIZE) -> LogOdds:
    """Every exit's log-odds of a split's pairs, in the split's order, [pairs, exits]."""
    return scored_rows(model, packed_slates(catalog, split, slate))


def scored_rows(model: MultiExitModel, data: Rows) -> LogOdds:
    """Every exit's log-odds of the rows' candidates, in order, [candidates, exits]."""
    model.eval()
    order = np.argsort(data.lengths)
    log_odds_by_row: dict[int, LogOdds] = {}
    for chosen in np.array_split(order, -(-len(order) // BATCH)):
        logits = model(*data.inputs(model, chosen.tolist())).numpy()
        ends = np.cumsum([len(data.rows[n].liked) for n in chosen])[:-1]
        log_odds_by_row |= zip(chosen.tolist(), np.split((logits[..., 1] - logits[..., 0]).T, ends), strict=True)
    return np.concatenate([log_odds_by_row[n] for n in range(len(data.rows))])


def run(catalog: Catalog, template: Path, chosen: Settings, args: argparse.Namespace) -> None:
    language = Language.load(str(args.tokenizer), read_template(template))
    what = {
        "template": template.read_text(),
        "tokenizer": fingerprint(language.tokenizer),
        "catalog": catalog.sha256,
        "settings": dataclasses.asdict(chosen),
    }
    place = args.work / f"{template.stem}-{hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:8]}"
    trained = (place / "run.json").exists()
    missing = [s for s in ("validation", "test") if not (place / f"{s}.npy").exists() and (args.test or s == "validation")]
    if trained and not missing:
        return
    print(f"{place}: {chosen}", flush=True)
    if trained:
        own_catalog = Catalog.open(place / "catalog")
        unchanged = load_checkpoint(place / "checkpoint", None, None, own_catalog.labels)
        model = MultiExitModel(unchanged.decoder, unchanged.heads, unchanged.exits, unchanged.projectors)
    else:
        own_catalog = reworded(catalog, language, args.users, args.items, place / "catalog")
        start = time.monotonic()
        model = train(own_catalog, chosen)
        record = {"name": template.stem, **what, "seconds": time.monotonic() - start, "exits": list(model.exits)}
        record["tokens"] = {part: own_catalog.info["prompt"]["lengths"][part]["p50"] for part in ("prefix", "candidate")}
        words = (own_catalog.labels, own_catalog.traits)
        save_checkpoint(place / "checkpoint", model.model, model.exits, model.heads, *words, projectors=model.projectors)
        write_json(place / "run.json", record)
    for split in missing:
        np.save(place / f"{split}.npy", scored(model, own_catalog, split))
    if "test" in missing:
        validation, test = (np.load(place / f"{split}.npy")[:, -1] for split in ("validation", "test"))
        write_pairs(own_catalog, validation, test, place / "test.parquet")


def write_pairs(catalog: Catalog, validation: LogOdds, test: LogOdds, out: Path) -> None:
    """The test pairs with one exit's probability, by a Platt map that is fitted on validation. validation, test: its log-odds."""
    platt, rows = fit(validation, catalog.split("validation").liked), catalog.split("test")
    frame = {"user_id": catalog.users.take(rows.users), "item_id": catalog.items.take(rows.items)}
    probability = 1 / (1 + np.exp(-(platt.a * test.astype(np.float64) + platt.b)))
    pl.DataFrame({**frame, "probability": probability}).write_parquet(out)


@dataclasses.dataclass(frozen=True)
class Run:
    """One row of the tables."""

    place: Path
    record: dict[str, Any]

    @classmethod
    def all(cls, work: Path) -> list[Run]:
        """In the order they were made."""
        run_files = sorted(work.glob("*/run.json"), key=lambda path: path.stat().st_mtime)
        return [cls(path.parent, json.loads(path.read_text())) for path in run_files]

    @property
    def name(self) -> str:
        return str(self.record["name"])

    @property
    def seed(self) -> int:
        return int(self.record["settings"]["seed"])

    @property
    def settings(self) -> str:
        """Those that are not the usual ones, but for the seed."""
        usual = dataclasses.asdict(Settings())
        return " ".join(f"{k}={v}" for k, v in self.record["settings"].items() if k != "seed" and v != usual[k])

    @property
    def slate(self) -> int:
        """Tokens of a slate, of medians."""
        return int(self.record["tokens"]["prefix"] + SIZE * self.record["tokens"]["candidate"])

    def scores(self, split: str) -> LogOdds | None:
        path = self.place / f"{split}.npy"
        return np.load(path) if path.exists() else None


def table(catalog: Catalog, runs: Sequence[Run]) -> Table:
    """Each exit's AUC, user AUC and NDCG@10."""
    run_files = Table(title=f"{catalog.path}: AUC / user AUC / NDCG@10 of each exit", title_justify="left", show_lines=True)
    for column in ("template", "settings", "seed", "tokens", "a slate", "min", "validation", "test"):
        run_files.add_column(column)
    splits = {split: catalog.split(split) for split in ("validation", "test")}
    for run in runs:
        cells = []
        for split, rows in splits.items():
            by_user, scores = ByUser(rows.users, rows.liked), run.scores(split)
            lines = [] if scores is None else zip(run.record["exits"], scores.T, strict=True)
            cells.append(
                "\n".join(
                    f"{e}: {auc(z, rows.liked):.4f} / {np.nanmean(by_user.auc(z)):.4f} / {np.nanmean(by_user.ndcg(z, TOP)):.4f}"
                    for e, z in lines
                )
            )
        tokens = " + ".join(map(str, run.record["tokens"].values()))
        minutes = f"{run.record['seconds'] / 60:.1f}"
        run_files.add_row(run.name, run.settings, str(run.seed), tokens, str(run.slate), minutes, *cells)
    return run_files


def compared(catalog: Catalog, runs: Sequence[Run], split: str, reference: str, few: int) -> Table:
    """The last exits with their intervals, and their differences from the reference's of the same seed; then the AUC among the
    pairs whose items had few ratings in training, and among the others. Below, means of those that differ in their seed alone."""
    rows = catalog.split(split)
    train = catalog.split("train")
    ratings = np.bincount(train.items, minlength=len(catalog.items))[rows.items]
    parts = {"all": ratings >= 0, f"items of at most {few} ratings": ratings <= few, f"of more than {few}": ratings > few}
    parts = {name: of for name, of in parts.items() if of.any()}
    judges = {name: Judgement(rows.users[of], rows.liked[of]) for name, of in parts.items()}
    known = [run for run in runs if run.scores(split) is not None]
    measured = {run.place: {name: judges[name].of(last(run, split)[of]) for name, of in parts.items()} for run in known}
    kinds: dict[tuple[str, str], dict[int, Run]] = {}
    for run in known:
        kinds.setdefault((run.name, run.settings), {})[run.seed] = run
    references = next((seeds for (name, _), seeds in kinds.items() if name == reference), {})
    title = f"{catalog.path}: last exits on {split}, with 95 % intervals; below, less {reference}"
    run_files = Table(title=title, title_justify="left", show_lines=True)
    for column in ("template", "settings", "seed", "a slate", "AUC", "user AUC", "NDCG@10", *list(parts)[1:]):
        run_files.add_column(column)
    run_files.caption = ", ".join(f"{name}: {of.sum()} pairs" for name, of in parts.items())
    shown = {"all": ("auc", "user_auc", "ndcg@10")} | dict.fromkeys(list(parts)[1:], ("auc",))
    for several in [*([run] for run in known), *(list(seeds.values()) for seeds in kinds.values() if len(seeds) > 1)]:
        against = [(run, references[run.seed]) for run in several if references.get(run.seed, run) is not run]
        cells = []
        for name in parts:
            lines = [(mean([measured[run.place][name] for run in several]).interval(), "{:.4f} ({:.4f} to {:.4f})")]
            if len(against) == len(several):
                gains = [measured[run.place][name].minus(measured[other.place][name]) for run, other in against]
                lines.append((mean(gains).interval(), "{:+.4f} ({:+.4f} to {:+.4f})"))
            cells += ["\n".join(form.format(*interval[metric]) for interval, form in lines) for metric in shown[name]]
        seeds = ", ".join(str(run.seed) for run in several)
        run_files.add_row(several[0].name, several[0].settings, seeds, str(several[0].slate), *cells)
    return run_files


def last(run: Run, split: str) -> NDArray[np.float32]:
    scores = run.scores(split)
    assert scores is not None
    return scores[:, -1]


@script
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("catalog", type=Path, help="that `rexit index` wrote, with any template")
    parser.add_argument("templates", type=Path, nargs="*")
    parser.add_argument("--items", type=Path, help="the table of items that it was made from")
    parser.add_argument("--users", type=Path, help="the table of users")
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--test", action="store_true", help="score the test split too")
    parser.add_argument("--reference", help="the template that the others are compared with, with intervals")
    parser.add_argument("--split", choices=("validation", "test"), default="validation", help="to compare on")
    parser.add_argument("--few", type=int, default=10, help="up to so many ratings in training an item is judged apart")
    Settings.add_options(parser)
    args = parser.parse_intermixed_args()
    if args.templates and not (args.items and args.users and args.tokenizer):
        parser.error("a template needs --items, --users and --tokenizer")
    catalog, chosen = Catalog.open(args.catalog), Settings.of(args)
    args.work.mkdir(parents=True, exist_ok=True)
    for template in args.templates:
        run(catalog, template, chosen, args)
    console, runs = Console(width=WIDTH, highlight=False), Run.all(args.work)
    console.print(table(catalog, runs))
    if args.reference:
        console.print(compared(catalog, runs, args.split, args.reference, args.few))


if __name__ == "__main__":
    main()
