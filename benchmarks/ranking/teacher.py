"""What gradient boosting says of a catalog's training pairs, for `examples/finetune/train.py --teacher`.

    python benchmarks/ranking/teacher.py CATALOG teacher.parquet

1. The boosting is baselines.py's on counts and lists. Each pair is scored by one of FOLDS models whose training had none of
   its user's pairs, so that no score has seen its own label.
2. Leaves and rounds are those with the least log loss on validation, as for the baseline.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import polars as pl
from as_of import Interactions, Pairs, cut
from baselines import TRAIN_SIZE, embeddings, lists_of_training
from boosting import Scores, boosted
from rich.progress import track
from sklearn.model_selection import GroupKFold

from rexit.bundle import Catalog
from rexit.slates import SIZE

FOLDS = 5


def cross_fitted(catalog: Catalog) -> tuple[Pairs, Scores]:
    """The training pairs, and the log-odds of each by a model that was fitted on other users."""
    interactions, space = Interactions(catalog), embeddings(catalog)
    train, validation = cut(catalog.split("train"), TRAIN_SIZE), cut(catalog.split("validation"), SIZE)
    said = interactions.retrieved(validation, space, interactions.folded_in(validation, space))[1]
    known = np.concatenate([interactions.counts(validation), said], 1)
    features = np.concatenate([interactions.counts(train), lists_of_training(catalog, interactions, train)], 1)
    score = np.empty(len(train))
    folds = GroupKFold(FOLDS, shuffle=True, random_state=0).split(features, groups=train.users)
    for rest, held_out in track(list(folds), description="boosting"):
        fitted = (features[rest], train.liked[rest]), (known, validation.liked)
        score[held_out] = boosted(*fitted, features[held_out])[1]
    return train, score


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("catalog", type=Path)
    parser.add_argument("out", type=Path, help=".parquet: user, item, probability")
    args = parser.parse_args()
    catalog = Catalog.open(args.catalog)
    pairs, score = cross_fitted(catalog)
    pl.DataFrame(
        {
            "user": catalog.users.take(pairs.users),
            "item": catalog.items.take(pairs.items),
            "probability": 1 / (1 + np.exp(-score)),
        }
    ).write_parquet(args.out)
    print(f"wrote {args.out}: {len(pairs)} pairs")


if __name__ == "__main__":
    main()
