"""What a model ranks like on one catalog, against another: with embeddings from elsewhere, or with contexts in its prompts.

    python benchmarks/ranking/catalogs.py NAME=CATALOG … --work WORK [--epochs 2] [--batch-tokens 800] [--seeds 3] [--json]

The catalogs are of the same interactions and the same split; the first is what the others are compared with. Each gets a model of
examples/movielens/train.py, with its options. Its last exit scores the slates of the test split in PyTorch. WORK keeps scores, by
name and settings. Figures are means over the seeds, intervals of a bootstrap over users, differences paired.

A slate of the test split is cut alike in all catalogs, so that all prompts are as of the same moments: contexts, which would end
it, must stand behind the prefix, where each candidate brings its own.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "movielens"))
from judgement import METRICS, Judgement, mean
from prompts import scored_rows
from train import Settings, train

from rexit.bundle import Catalog
from rexit.errors import InputError
from rexit.exporter.model.training import Row, Rows
from rexit.exporter.model.vectors import Sources
from rexit.exporter.prompt.builder import PromptBuilder
from rexit.scripts import script
from rexit.slates import SIZE, runs

SHOWN = METRICS[:3]


def test_rows(catalog: Catalog) -> Rows:
    """The slates of the test split, cut at their size alone. Raises InputError for a context in the prefix."""
    if placed := [op["name"] for op in catalog.info["prompt"]["prefix"] if op["op"] == "context"]:
        raise InputError(f"{catalog.path}: context `{placed[0]}` is in the prefix, expected contexts behind it alone")
    split, parts = runs(catalog, "test", SIZE, one_request=False)
    builder = PromptBuilder.of(catalog, "test")
    rows = []
    for part in parts:
        user, time = int(split.users[part.start]), int(split.times[part.start])
        prompt = builder.prompt_rows(user, split.items[part], time, context=split.contexts[part])
        rows.append(Row(catalog.users.id(user), prompt, split.liked[part]))
    return Rows(rows, None if catalog.vector_ids is None else Sources(catalog, training=False))


def test_scores(catalog: Catalog, settings: Settings, path: Path) -> NDArray[np.float32]:
    """The last exit's log-odds of the test pairs, from a file if it is there."""
    if not path.is_file():
        model = train(catalog, settings)
        with torch.no_grad():
            np.save(path, scored_rows(model, test_rows(catalog))[:, -1])
    scores: NDArray[np.float32] = np.load(path)
    return scores


@script
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("catalogs", nargs="+", metavar="NAME=CATALOG")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each catalog, from --seed on")
    parser.add_argument("--json", action="store_true")
    Settings.add_options(parser)
    args = parser.parse_args()
    settings = Settings.of(args)
    args.work.mkdir(parents=True, exist_ok=True)
    scores, pairs = {}, None
    for word in args.catalogs:
        name, _, path = word.partition("=")
        catalog = Catalog.open(Path(path))
        test = catalog.split("test")
        if pairs is None:
            pairs = test
        if not (np.array_equal(test.users, pairs.users) and np.array_equal(test.liked, pairs.liked)):
            raise InputError(f"{path}: its test split has other pairs than that of {args.catalogs[0]}")
        print(name, flush=True)
        seeds = [replace(settings, seed=settings.seed + n) for n in range(args.seeds)]
        scores[name] = [
            test_scores(catalog, chosen, args.work / f"{name}-{chosen.epochs:g}-{chosen.batch_tokens}-{chosen.seed}.npy")
            for chosen in seeds
        ]
    assert pairs is not None
    judgement = Judgement(pairs.users, pairs.liked)
    values = {name: mean([judgement.of(score) for score in of_seeds]) for name, of_seeds in scores.items()}
    reference = next(iter(values.values()))
    results = {name: (value.interval(), value.minus(reference).interval()) for name, value in values.items()}
    if args.json:
        print(json.dumps(results, indent=1))
        return
    table = Table("catalog", *SHOWN, box=MARKDOWN)
    for name, (own, gains) in results.items():
        table.add_row(name, *(f"{own[metric][0]:.4f}" for metric in SHOWN))
        if name != next(iter(results)):
            table.add_row("", *("{:+.4f} ({:+.4f} to {:+.4f})".format(*gains[metric]) for metric in SHOWN))
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
