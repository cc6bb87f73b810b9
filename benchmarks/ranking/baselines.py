"""How well simple models rank a catalog's test split, for comparison with models of rexit.

    python benchmarks/ranking/baselines.py CATALOG [--json]
    python benchmarks/ranking/baselines.py CATALOG --pairs pairs.parquet                      the test pairs, for `rexit score`
    rexit score BUNDLE --pairs pairs.parquet --out policy.parquet
    python benchmarks/ranking/baselines.py CATALOG --scored "with the policy=policy.parquet"  with the baselines
    python benchmarks/ranking/baselines.py CATALOG --scored A=a.parquet --scored B=b.parquet --scored-alone  without the baselines
    python benchmarks/ranking/baselines.py REPORT.json                                        the table of what --json printed

| baseline | fitted on the train split, chosen on validation by log loss |
|---|---|
| popularity | an item's training likes |
| user and item bias | logistic regression; its constant |
| matrix factorization | logistic, 16 factors and biases; penalty and steps |
| LightGCN | nothing: the user folded in from the visible likes, times the item |
| exit zero | nothing: the catalog's own graph, if it has one |
| boosting, counts | gradient boosting on counts and like rates of user and item; leaves and rounds |
| boosting, counts and lists | also on what similar users and the nearest items say, in training as a training prompt finds them |
| boosting, the prompt's numbers | on the counts and rates of the catalog's own prompts (prompt_numbers.py), if they have any |

Rules
1. Test pairs are scored in slates of 20 (--slate; rexit.data.slates.cut), as of the slate's first. Boosting is fitted on slates
   of 8.
2. A baseline's score becomes a probability by a Platt map that is fitted on validation.
3. A --scored file holds the test pairs with `user_id`, `item_id` and `probability`, one row each, in any order, and is ranked by
   them. Its log loss is that of the catalog's labels: calibrate with --negative-rate 1 where negatives were sampled.
4. Every model is compared with --reference: differences and intervals are paired, drawn over users (judgement.py).
5. A name of several --scored files is one model with several seeds: its figures are the means of theirs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
from as_of import LISTS, Features, Interactions, Pairs, Space, cut
from boosting import boosted
from factorization import biases, matrix_factorization
from judgement import METRICS, Judgement, Measured, mean
from numpy.typing import NDArray
from prompt_numbers import number_ops, prompt_numbers
from rich.console import Console
from rich.table import Table

from rexit.calibration.maps import fit
from rexit.data import slates
from rexit.data.slates import SIZE
from rexit.errors import script
from rexit.exporter.zero import zero_log_odds
from rexit.format.bundle import Catalog
from rexit.format.bundle.catalog import SPLITS

BASELINES = ("popularity", "user and item bias", "matrix factorization", "LightGCN", "exit zero", "boosting")
"""Names for --only; boosting is all three."""
TRAIN_SIZE = 8
DEFAULT_REFERENCE = "matrix factorization"

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Model:
    """A model's test scores [n] and probabilities [n]. chosen: its regularization, for the table."""

    name: str
    score: Scores
    probability: Scores
    chosen: str = ""


def baselines(catalog: Catalog, slate: int = SIZE, only: Sequence[str] = ()) -> Iterator[Model]:
    """Yields the baselines in the order of the table above.

    Args:
        catalog: the catalog.
        slate: held-out candidates at one moment.
        only: some of BASELINES; empty: all.
    """
    train, validation, test = (catalog.split(name) for name in SPLITS)
    sizes = catalog.info["counts"]["users"], catalog.info["counts"]["items"]

    def calibrated(name: str, on_validation: Scores, on_test: Scores, chosen: str = "") -> Model:
        platt = fit(on_validation.astype(np.float32), validation.liked)
        return Model(name, on_test, 1 / (1 + np.exp(-(platt.a * on_test + platt.b))), chosen)

    def wanted(*names: str) -> bool:
        return not only or not set(names).isdisjoint(only)

    if wanted("popularity"):
        likes = np.bincount(train.items[train.liked], minlength=sizes[1]).astype(np.float64)
        yield calibrated("popularity", likes[validation.items], likes[test.items])
    if wanted("user and item bias", "matrix factorization"):
        v, t, constant = biases(train, validation, test, *sizes)
        if wanted("user and item bias"):
            yield calibrated("user and item bias", v, t, f"C {constant:g}")
    if wanted("matrix factorization"):
        v, t, penalty = matrix_factorization(train, validation, test, *sizes, constant)
        yield calibrated("matrix factorization", v, t, f"penalty {penalty:g}")
    if wanted("LightGCN"):
        v, t = lightgcn(catalog, slate)
        yield calibrated("LightGCN", v, t)
    if catalog.numbers and wanted("exit zero"):
        known, held_out = (np.concatenate(zero_log_odds(catalog, slates.cut(catalog, split, slate))) for split in SPLITS[1:])
        yield calibrated("exit zero", known.astype(np.float64), held_out.astype(np.float64))
    if wanted("boosting"):
        pairs, features = boosting_inputs(catalog, slate)
        for name, (train_rows, chosen, test_rows) in features.items():
            yield calibrated(name, *boosted((train_rows, pairs[0].liked), (chosen, pairs[1].liked), test_rows))


def lightgcn(catalog: Catalog, slate: int) -> tuple[Scores, Scores]:
    """Returns scores of the validation and test pairs: the user folded in from the visible likes, times the item."""
    interactions, space = Interactions(catalog), embeddings(catalog)

    def scores(split: str) -> Scores:
        pairs = cut(catalog.split(split), slate)
        return np.asarray((interactions.folded_in(pairs, space) * space.items[pairs.items]).sum(1))

    return scores("validation"), scores("test")


def boosting_inputs(catalog: Catalog, slate: int = SIZE) -> tuple[list[Pairs], dict[str, list[Features]]]:
    """Returns the pairs of the three splits, and by the name of a boosting its features of all three."""
    sizes = (TRAIN_SIZE, slate, slate)
    pairs = [cut(catalog.split(name), size) for name, size in zip(SPLITS, sizes, strict=True)]
    interactions, space = Interactions(catalog), embeddings(catalog)
    counts = [interactions.counts(part) for part in pairs]
    held_out = [interactions.retrieved(part, space, interactions.folded_in(part, space))[1] for part in pairs[1:]]
    lists = [lists_of_training(catalog, interactions, pairs[0]), *held_out]
    features = {
        "boosting, counts": counts,
        "boosting, counts and lists": [np.concatenate(both, 1) for both in zip(counts, lists, strict=True)],
    }
    if number_ops(catalog):
        features["boosting, the prompt's numbers"] = [prompt_numbers(catalog, *part) for part in zip(SPLITS, sizes, strict=True)]
    return pairs, features


def lists_of_training(catalog: Catalog, interactions: Interactions, pairs: Pairs) -> Features:
    """Returns LISTS [n, 6] as training prompts find them, with the snapshot of each slate's moment; nan without a snapshot."""
    snapshots = catalog.snapshots
    part = (snapshots["begins"][pairs.users] <= pairs.as_of[:, None]).sum(1)
    lists = np.full((len(pairs), len(LISTS)), np.nan, np.float32)
    for k in np.unique(part[part > 0]):
        here = pairs.at(part == k)
        tables = {name: snapshots[name][k - 1].astype(np.float32) for name in ("users", "items", "fold_in")}
        space: Space = SimpleNamespace(**tables)
        lists[part == k] = interactions.retrieved(here, space, interactions.folded_in(here, space))[1]
    return lists


def embeddings(catalog: Catalog) -> Space:
    items = catalog.item_table
    return SimpleNamespace(
        users=catalog.user_embeddings.astype(np.float32),
        items=items["embeddings"].astype(np.float32),
        fold_in=items["fold_in"].astype(np.float32),
    )


def test_frame(catalog: Catalog, slate: int = SIZE) -> pl.DataFrame:
    """Returns the test pairs in slates: `user_id`, `item_id`, `as_of`, `liked`."""
    pairs: Pairs = cut(catalog.split("test"), slate)
    return pl.DataFrame(
        {
            "user_id": catalog.users.take(pairs.users),
            "item_id": catalog.items.take(pairs.items),
            "as_of": pairs.as_of,
            "liked": pairs.liked,
        }
    )


def scored(catalog: Catalog, name: str, path: Path) -> Model:
    """Reads a file of scored test pairs. Any other file ends the program with one line."""
    frame = pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_csv(path, infer_schema_length=None)
    if missing := {"user_id", "item_id", "probability"} - set(frame.columns):
        sys.exit(f"baselines: {path}: no column {sorted(missing)[0]!r}, expected user_id, item_id, probability")
    labels = test_frame(catalog).with_columns(pl.int_range(pl.len()).over("user_id", "item_id").alias("copy"))
    if frame.height != labels.height:
        sys.exit(f"baselines: {path}: {frame.height} rows, the test split has {labels.height}")
    keys = ["user_id", "item_id", "copy"]
    frame = frame.with_columns(pl.int_range(pl.len()).over("user_id", "item_id").alias("copy"))
    frame = frame.cast({key: labels.schema[key] for key in keys}).select(*keys, "probability")
    joined = labels.join(frame, on=keys, how="left", maintain_order="left")
    if absent := joined.filter(pl.col("probability").is_null() | ~pl.col("probability").is_between(0, 1)).rows():
        sys.exit(f"baselines: {path}: user {absent[0][0]!r}, item {absent[0][1]!r} has no probability from 0 to 1")
    probability = joined["probability"].to_numpy().astype(np.float64)
    return Model(name, probability, probability)


def measured(judgement: Judgement, models: list[Model]) -> dict[str, Measured]:
    """Returns the metrics by name, the mean over models of the same name."""
    by_model: dict[str, list[Measured]] = {}
    for model in models:
        by_model.setdefault(model.name, []).append(judgement.of(model.score, model.probability))
    return {name: mean(several) for name, several in by_model.items()}


def report(catalog: Catalog, models: list[Model], reference: str) -> dict[str, Any]:
    """Returns what the table shows: each model's metrics and their differences from the reference, each (value, low, high)."""
    test = catalog.split("test")
    results = measured(Judgement(test.users, test.liked), models)
    chosen = {model.name: model.chosen for model in models}
    seeds = Counter(model.name for model in models)
    return {
        "pairs": len(test),
        "users": len(np.unique(test.users)),
        "reference": reference,
        "models": [
            {
                "name": name,
                "chosen": chosen[name] if seeds[name] == 1 else f"mean of {seeds[name]} seeds",
                **judged.interval(),
                "difference": judged.minus(results[reference]).interval(),
            }
            for name, judged in results.items()
        ],
    }


def interval(value: Sequence[float], difference: Sequence[float] | None) -> str:
    """Returns a cell: a value with its interval, and below it the difference from the reference; None: it is the reference."""
    cell = "{:.4f} ({:.4f} to {:.4f})".format(*value)
    return cell if difference is None else cell + "\n{:+.4f} ({:+.4f} to {:+.4f})".format(*difference)


def table(figures: dict[str, Any]) -> Table:
    title = (
        f"The test split: {figures['pairs']} pairs of {figures['users']} users; below, the difference from {figures['reference']}"
    )
    markdown = Table(title=f"{title} (95 % intervals over users)", title_justify="left", show_lines=True)
    for column in ("", "AUC", "user AUC", "NDCG@10", "log loss"):
        markdown.add_column(column, justify="right" if column else "left")
    for model in figures["models"]:
        is_reference = model["name"] == figures["reference"]
        cells = [interval(model[metric], None if is_reference else model["difference"][metric]) for metric in METRICS]
        markdown.add_row(f"{model['name']}\n{model['chosen']}".strip(), *cells)
    return markdown


@script
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("catalog", type=Path, help="or a report that --json printed")
    parser.add_argument("--pairs", type=Path, help="write the test pairs there (.parquet) and stop")
    parser.add_argument("--scored", action="append", default=[], metavar="NAME=FILE", help="scored test pairs, .parquet or .csv")
    parser.add_argument("--scored-alone", action="store_true", help="compare the --scored files, and fit no baselines")
    parser.add_argument("--only", default="", metavar="NAME,NAME", help="fit these baselines alone")
    parser.add_argument("--reference", help="what all are compared with; the first --scored, else matrix factorization")
    parser.add_argument("--slate", type=int, default=SIZE, help=f"candidates scored together ({SIZE})")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.scored_alone and not args.scored:
        parser.error("--scored-alone needs --scored")
    if args.catalog.is_file():
        figures = json.loads(args.catalog.read_text())
    else:
        catalog = Catalog.open(args.catalog)
        if args.pairs:
            test_frame(catalog, args.slate).write_parquet(args.pairs)
            return
        named = [(name, Path(path)) for name, _, path in (judged.partition("=") for judged in args.scored)]
        models = [scored(catalog, name, path) for name, path in named]
        if not args.scored_alone:
            only = [name for name in args.only.split(",") if name]
            if unknown := set(only) - set(BASELINES):
                sys.exit(f"baselines: --only: {sorted(unknown)[0]!r}, expected some of {', '.join(BASELINES)}")
            models += baselines(catalog, args.slate, only)
        reference = args.reference or (named[0][0] if named else DEFAULT_REFERENCE)
        if reference not in (names := [model.name for model in models]):
            sys.exit(f"baselines: --reference is {reference!r}, expected one of {', '.join(names)}")
        figures = report(catalog, models, reference)
    if args.json:
        print(json.dumps(figures))
    else:
        Console(highlight=False).print(table(figures))


if __name__ == "__main__":
    main()
