"""What gradient boosting says of a catalog's training pairs, for `rexit train --teacher`.

    python benchmarks/ranking/teacher.py CATALOG teacher.parquet

1. The teacher is the boosting of baselines.py that has the least log loss on validation.
2. Each pair is scored by one of FOLDS models whose training had none of its user's pairs, so that no score has seen its own
   label.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import polars as pl
from as_of import Features, Pairs
from baselines import boosting_inputs
from boosting import Scores, boosted
from rich.console import Console
from sklearn.metrics import log_loss
from sklearn.model_selection import GroupKFold

from rexit.bundle import Catalog
from rexit.scripts import script

FOLDS = 5


def best(parts: list[Pairs], inputs: dict[str, list[Features]], console: Console) -> tuple[str, Scores]:
    """The teacher's name, and the probability it gives to each training pair. parts, inputs: of `boosting_inputs`."""
    train, validation, _ = parts
    chosen = validation.liked
    losses = {}
    for name, (known, held_out, _) in inputs.items():
        losses[name] = log_loss(chosen, probability(boosted((known, train.liked), (held_out, chosen), held_out)[0]))
        console.print(f"{name}: log loss {losses[name]:.4f} on validation")
    name = min(losses, key=lambda candidate: losses[candidate])
    known, held_out, _ = inputs[name]
    answers = np.empty(len(train))
    for rest, fold in GroupKFold(FOLDS, shuffle=True, random_state=0).split(known, groups=train.users):
        answers[fold] = probability(boosted((known[rest], train.liked[rest]), (held_out, chosen), known[fold])[1])
    return name, answers


def probability(log_odds: Scores) -> Scores:
    scores: Scores = 1 / (1 + np.exp(-log_odds))
    return scores


@script
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("catalog", type=Path)
    parser.add_argument("out", type=Path, help=".parquet: user_id, item_id, probability")
    args = parser.parse_args()
    catalog, console = Catalog.open(args.catalog), Console(highlight=False)
    parts, inputs = boosting_inputs(catalog)
    name, answers = best(parts, inputs, console)
    pairs = parts[0]
    columns = {
        "user_id": catalog.users.take(pairs.users),
        "item_id": catalog.items.take(pairs.items),
        "probability": answers,
    }
    pl.DataFrame(columns).write_parquet(args.out)
    console.print(f"wrote {args.out}: {len(pairs)} pairs by {name}")


if __name__ == "__main__":
    main()
