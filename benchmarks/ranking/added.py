"""Does a fine-tuned model know anything that the simple ones do not? It is blended with each baseline and judged beside it.

    python benchmarks/ranking/added.py FOLDER …

FOLDER: as exits.py leaves it, with the log-odds of its exits; several are seeds, over which the gain is averaged. A blend is a
logistic regression on two scores, the baseline's and the deepest exit's, fitted on validation; judged on test, less the baseline
alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from baselines import Model, Scores, baselines
from judgement import Judgement, mean
from numpy.typing import NDArray
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from rexit.bundle import Catalog
from rexit.scripts import script

METRICS = ("auc", "user_auc", "ndcg@10")


def blended(baseline: Model, seed_scores: Sequence[Scores], liked: NDArray[np.bool_]) -> Scores:
    """Of the test pairs. mine: the model's log-odds of validation [m] and of test [n]; liked [m]: of validation."""
    assert baseline.on_validation is not None
    known, test_inputs = (np.stack(both, 1) for both in zip((baseline.on_validation, baseline.score), seed_scores, strict=True))
    scores: Scores = (
        make_pipeline(StandardScaler(), LogisticRegression(C=np.inf)).fit(known, liked).decision_function(test_inputs)
    )
    return scores


@script
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    folders = parser.parse_args().folders
    catalog = Catalog.open(folders[0] / "catalog")
    validation, test = catalog.split("validation"), catalog.split("test")
    seeds = [
        [np.load(folder / "exits" / f"{split}.npy")[:, -1].astype(np.float64) for split in ("validation", "test")]
        for folder in folders
    ]
    judgement = Judgement(test.users, test.liked)
    table = Table("blended with, less that alone", *METRICS, box=MARKDOWN)
    for baseline in baselines(catalog):
        both = mean([judgement.of(blended(baseline, seed_scores, validation.liked)) for seed_scores in seeds])
        gain = both.minus(judgement.of(baseline.score)).interval()
        table.add_row(baseline.name, *("{:+.4f} ({:+.4f} to {:+.4f})".format(*gain[metric]) for metric in METRICS))
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
