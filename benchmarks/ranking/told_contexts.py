"""What an interaction's contexts add to the prompt's numbers: gradient boosting on both, against the numbers alone.

    python benchmarks/ranking/told_contexts.py CATALOG --plain PLAIN

CATALOG has contexts behind the prefix (benchmarks/ranking/prompts/ml-100k/contexts.toml); PLAIN, the same without them, says what
the numbers are, since slates of a catalog with contexts end where these change. A context is a column with the number of its
value in the template's order. The forms of the trees are chosen on validation, test pairs are judged; intervals are 95 %, over
users, differences paired.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from boosting import boosted
from judgement import METRICS, Judgement
from told import told

from rexit.bundle import Catalog
from rexit.bundle.catalog import SPLITS
from rexit.errors import InputError
from rexit.scripts import script
from rexit.slates import SIZE

SLATES = (8, SIZE, SIZE)
"""Candidates of a slate in train, validation and test."""


@script
def main(path: Path, plain_path: Path) -> None:
    catalog, plain = Catalog.open(path), Catalog.open(plain_path)
    splits = [catalog.split(name) for name in SPLITS]
    for name, split in zip(SPLITS, splits, strict=True):
        other = plain.split(name)
        if not (np.array_equal(split.users, other.users) and np.array_equal(split.items, other.items)):
            raise InputError(f"{plain_path}: its {name} split has other pairs than that of {path}")
    numbers = [told(plain, name, size) for name, size in zip(SPLITS, SLATES, strict=True)]
    both = [np.hstack([part, split.contexts.astype(np.float32)]) for part, split in zip(numbers, splits, strict=True)]
    train, validation, test = (split.liked for split in splits)
    judgement = Judgement(splits[-1].users, test)
    judged = {}
    for label, (of_train, of_validation, of_test) in (("numbers", numbers), ("numbers and contexts", both)):
        _, log_odds = boosted((of_train, train), (of_validation, validation), of_test)
        judged[label] = judgement.of(log_odds, 1 / (1 + np.exp(-log_odds)))
    for name, values in zip(catalog.contexts.names, splits[-1].contexts.T, strict=True):
        distinct = [len(np.unique(values[splits[-1].users == user])) for user in np.unique(splits[-1].users)]
        print(f"{name}: {np.mean(np.array(distinct) == 1):.0%} of the users have one value in all of their test pairs")
    for label, measured in judged.items():
        print(label, {metric: f"{value:.4f}" for metric, (value, _, _) in measured.interval().items()})
    gains = judged["numbers and contexts"].minus(judged["numbers"]).interval()
    for metric in METRICS:
        print("{:8} {:+.4f} ({:+.4f} to {:+.4f})".format(metric, *gains[metric]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("catalog", type=Path)
    parser.add_argument("--plain", type=Path, required=True)
    args = parser.parse_args()
    main(args.catalog, args.plain)
