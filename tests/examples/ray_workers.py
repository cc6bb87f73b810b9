"""examples/distributed on a local cluster of two workers, one of which is killed on the way: the scores are those of one process.

`make test-distributed` runs it, where Ray is installed; its name keeps it from being collected elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from builders.bundles.catalog import ITEM_IDS, USER_IDS
from builders.bundles.held_out import write_ranked
from rexit.doors.batch import TableScorer, score_table
from running.scripts import scripts_of

scripts = scripts_of("examples/distributed")


def test_a_killed_worker_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import score

    write_ranked(tmp_path / "place")
    bundle, calls = tmp_path / "place" / "bundle", tmp_path / "calls"
    calls.mkdir()
    random = np.random.default_rng(3)
    users, items = random.choice(USER_IDS, 2000), random.choice(ITEM_IDS, 2000)
    pairs = pl.DataFrame({"user_id": users, "item_id": items, "as_of": random.choice([30, 60, 200], 2000), "row": range(2000)})
    (tmp_path / "pairs").mkdir()
    for n in range(4):
        pairs[n::4].write_parquet(tmp_path / "pairs" / f"{n}.parquet")

    class Killed(TableScorer):
        """Once, the worker is killed that comes with the fourth table or a later one."""

        def __call__(self, table: pa.Table) -> pa.Table:
            (calls / f"{os.getpid()}-{time.monotonic_ns()}").touch()
            if len(list(calls.iterdir())) > 3:
                with contextlib.suppress(FileExistsError):
                    (tmp_path / "killed").touch(exist_ok=False)
                    os.kill(os.getpid(), signal.SIGKILL)
            return super().__call__(table)

    def make_scorer(*words: Any, **options: Any) -> TableScorer:
        return Killed(**vars(score_table(*words, **options)))

    monkeypatch.setattr(score, "score_table", make_scorer)
    monkeypatch.setattr(score.ray.data.DataContext.get_current(), "default_hash_shuffle_parallelism", 8)
    monkeypatch.setattr(
        sys, "argv", ["score.py", str(bundle), str(tmp_path / "pairs"), str(tmp_path / "scores"), "--workers", "2"]
    )
    score.main()
    scores = pl.read_parquet(tmp_path / "scores").sort("row")
    expected = pl.from_arrow(score_table(bundle)(pairs.to_arrow()))
    assert isinstance(expected, pl.DataFrame) and scores.select(expected.columns).equals(expected)
    workers = {path.name.partition("-")[0] for path in calls.iterdir()}
    assert (tmp_path / "killed").exists() and len(workers) >= 2, "the killed one, and what took its place"
    assert len(list(calls.iterdir())) > len(set(users)), "a table was scored again"
