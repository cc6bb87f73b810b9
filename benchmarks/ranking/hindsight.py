"""What the baselines know and a prompt does not: other users' later ratings of an item.

    python benchmarks/ranking/hindsight.py CATALOG

Biases and matrix factorization are fitted on the whole train split. Where users' histories overlap in time, that holds others'
ratings that are later than a test pair; a prompt's rates are as of the moment. Here gradient boosting reads what baselines.py
gives it, and beside it each item's ratings and like rate over the whole train split. A training row sees those of the other folds
of users, so that it does not see its own label.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from as_of import Features, Pairs
from baselines import boosting_inputs
from boosting import boosted
from judgement import Judgement
from numpy.typing import NDArray

from rexit.bundle import Catalog
from rexit.scripts import script

FOLDS, PRIOR = 5, 3.0
"""Folds of users; ratings at the mean rate that every item begins with."""


def rates(known: Pairs, items: NDArray[np.int64], count: int) -> Features:
    """Of `items` [n], how many of the pairs in `known` are about them and how many of those were liked: float32 [n, 2]."""
    n = np.bincount(known.items, minlength=count)
    likes = np.bincount(known.items, known.liked, minlength=count)
    return np.stack([n, (likes + PRIOR * known.liked.mean()) / (n + PRIOR)], 1)[items].astype(np.float32)


def later_ratings(pairs: Sequence[Pairs], users: int, items: int) -> list[Features]:
    """The rates of each split's items, float32 [n, 2]; those of a training pair are other folds' of users."""
    train, *held_out = pairs
    fold = np.random.default_rng(0).integers(0, FOLDS, users)[train.users]
    own = np.empty((len(train), 2), np.float32)
    for k in range(FOLDS):
        own[fold == k] = rates(train.at(fold != k), train.items[fold == k], items)
    return [own, *(rates(train, part.items, items) for part in held_out)]


@script
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("catalog", type=Path)
    catalog = Catalog.open(parser.parse_args().catalog)
    pairs, features = boosting_inputs(catalog)
    later = later_ratings(pairs, catalog.info["counts"]["users"], catalog.info["counts"]["items"])
    train, validation, test = pairs
    judgement = Judgement(test.users, test.liked)
    for name, plain in features.items():
        judged = []
        for inputs in (plain, [np.concatenate(both, 1) for both in zip(plain, later, strict=True)]):
            judged.append(judgement.of(boosted((inputs[0], train.liked), (inputs[1], validation.liked), inputs[2])[1]))
        intervals = [ranking.interval() for ranking in (*judged, judged[1].minus(judged[0]))]
        for metric in ("auc", "user_auc"):
            before, after, gain = (ranking[metric] for ranking in intervals)
            difference = "{:+.4f} ({:+.4f} to {:+.4f})".format(*gain)
            print(f"{name}, {metric}: {before[0]:.4f}, with later ratings {after[0]:.4f}, {difference}", flush=True)


if __name__ == "__main__":
    main()
