"""What examples/movielens/summary.py hands to benchmarks/ranking/baselines.py: the test split as the bundle scores it."""

from pathlib import Path

import numpy as np

import rexit
from builders.bundles.held_out import write_ranked
from rexit.bundle import Catalog
from rexit.slates import cut
from running.scripts import scripts_of

scripts = scripts_of("benchmarks/ranking", "examples/movielens")


def test_scored_test_split_stands_beside_the_baselines(tmp_path: Path) -> None:
    import baselines
    import summary

    bundle, folder = write_ranked(tmp_path)
    catalog = Catalog.open(folder)
    with rexit.open(bundle) as session:
        summary.score_test(session, catalog, tmp_path / "scored.parquet")
        slates = cut(catalog, "test", summary.SLATE)
        expected = [session.score(slate.user, slate.items, as_of=slate.as_of).probability for slate in slates]
    read = baselines.scored(catalog, "policy", tmp_path / "scored.parquet")
    assert read.probability.tolist() == np.concatenate(expected).tolist()
    report = baselines.report(catalog, [read], "policy")
    assert report["models"][0]["auc"][0] > 0.6
