"""benchmarks/ranking/teacher.py: scores of all training pairs, none of which has seen its own label."""

import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from builders.data.indexed_catalog import write_indexed_catalog
from rexit.bundle import Catalog
from running.scripts import scripts_of

scripts = scripts_of("benchmarks/ranking")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everybody likes the items with an even number."""
    return write_indexed_catalog(tmp_path_factory.mktemp("teacher"), users=40, taste=True)


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, out: Path) -> pl.DataFrame:
    import teacher

    monkeypatch.setattr(sys, "argv", ["teacher.py", str(folder), str(out)])
    teacher.main()
    return pl.read_parquet(out)


def test_every_training_pair_has_a_probability_that_tells_likes_apart(folder: Path, tmp_path: Path, monkeypatch) -> None:
    scored = run(monkeypatch, folder, tmp_path / "teacher.parquet")
    catalog = Catalog.open(folder)
    rows = catalog.split("train")
    assert scored["user_id"].to_list() == catalog.users.take(rows.users)
    assert scored["item_id"].to_list() == catalog.items.take(rows.items)
    said = scored["probability"].to_numpy()
    assert said.min() > 0 and said.max() < 1
    assert said[rows.liked].mean() > said[~rows.liked].mean() + 0.3


def test_no_score_comes_of_a_model_that_saw_its_user(folder: Path, monkeypatch) -> None:
    import baselines
    import teacher

    pairs = baselines.boosting_inputs(Catalog.open(folder))[0]
    users = [part.users[:, None].astype(np.float32) for part in pairs]
    scored = []

    def boosted(train, validation, test):
        if len(test) != len(pairs[1]):
            assert not set(train[0][:, 0]) & set(test[:, 0])
            scored.extend(test[:, 0])
        return np.zeros(len(validation[1])), np.zeros(len(test))

    monkeypatch.setattr(teacher, "boosted", boosted)
    teacher.best(pairs, {"its user": users}, teacher.Console(quiet=True))
    assert sorted(scored) == sorted(users[0][:, 0])
