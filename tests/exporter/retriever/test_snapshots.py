"""Snapshots: a training prompt's retriever is older than its label."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from rexit.exporter.options import LightGCNOptions
from rexit.exporter.retriever import lightgcn
from rexit.exporter.retriever.snapshots import NEVER, begins, parts, train_snapshots

OPTIONS = LightGCNOptions(dim=4, layers=2, epochs=3, snapshots=3)


def frame(user: list[int], time: list[int]) -> pl.DataFrame:
    n = len(user)
    return pl.DataFrame({"user": user, "time": time, "item": list(range(n)), "liked": [True] * n})


def test_parts_are_equal_shares_of_each_user_in_order() -> None:
    parted = parts(frame([0] * 10 + [1] * 3, [*range(10), 5, 6, 7]), 5)
    assert parted["part"].to_list() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 0, 1, 3]


def test_what_has_one_time_is_in_one_part_the_later_one() -> None:
    assert parts(frame([0] * 6, [1, 2, 2, 2, 3, 4]), 3)["part"].to_list() == [0, 1, 1, 1, 2, 2]


def test_begins_are_the_first_times_of_parts_or_later_ones() -> None:
    parted = begins(parts(frame([0] * 10 + [2] * 3, [*range(10), 5, 6, 7]), 5), 4, 5)
    assert parted.tolist() == [[2, 4, 6, 8], [NEVER] * 4, [6, 7, 7, NEVER], [NEVER] * 4]


@pytest.mark.parametrize("seed", range(3))
def test_no_snapshot_knows_what_its_prompts_are_asked(seed: int) -> None:
    """Random histories with many ties: a training prompt's retriever has learned of its user only from strictly earlier
    interactions."""
    rng = np.random.default_rng(seed)
    rows = pl.DataFrame({"user": rng.integers(0, 30, 600), "time": rng.integers(0, 25, 600)}).sort("user", "time")
    parted = parts(rows, 4)
    starts = begins(parted, 30, 4)
    for user, time in rows.iter_rows():
        part = int((starts[user] <= time).sum())
        known = parted.filter((pl.col("user") == user) & (pl.col("part") < part))
        assert not len(known) or known["time"].max() < time


NOTHING = (np.empty(0, np.int64), np.empty(0, np.int64))


def training_split() -> pl.DataFrame:
    rng = np.random.default_rng(0)
    train = pl.DataFrame({"user": np.repeat(np.arange(6), 9), "time": np.tile(np.arange(9), 6), "item": rng.integers(0, 12, 54)})
    return train.with_columns(liked=pl.Series(rng.random(54) < 0.7))


def edges(rows: pl.DataFrame) -> lightgcn.Edges:
    return rows["user"].to_numpy(), rows["item"].to_numpy()


def test_each_snapshot_is_what_lightgcn_makes_of_the_parts_before_it() -> None:
    train, steps = training_split(), []
    likes = lightgcn.Likes(NOTHING, NOTHING, NOTHING, NOTHING, 6, 12)
    parted, epochs = train_snapshots(train, likes, OPTIONS, lambda stage, done, total: steps.append((stage, done, total)))
    assert epochs == 3 and steps == sorted(steps, key=lambda step: (step[0] == "LightGCN of earlier moments", step[1]))
    for stage in ("epochs of LightGCN", "LightGCN of earlier moments"):
        assert [step[1:] for step in steps if step[0] == stage][-1] == (3, 3)
    for k in (1, 2):
        known = edges(train.filter("liked", pl.col("time") < 3 * k))
        expected = lightgcn.train(lightgcn.Likes(known, NOTHING, NOTHING, NOTHING, 6, 12), OPTIONS)
        np.testing.assert_array_equal(parted["users"][k - 1], expected.users.astype(np.float16))
        np.testing.assert_array_equal(parted["fold_in"][k - 1], expected.fold_in.astype(np.float16))


def test_the_last_part_chooses_the_epochs_of_all() -> None:
    """And no likes of the caller's: those are validation's, whose users certify."""
    train, options = training_split(), replace(OPTIONS, epochs=60, patience=10)
    known, last = (train.filter(part) for part in (pl.col("time") < 6, pl.col("time") >= 6))
    history, targets = edges(known.filter("liked")), edges(last.filter("liked"))
    expected = lightgcn.train(lightgcn.Likes(history, history, edges(known), targets, 6, 12), options)
    assert 0 < expected.epochs < 60, "the test shows nothing"
    validation = lightgcn.Likes(NOTHING, history, NOTHING, edges(train.sample(20, seed=1)), 6, 12)
    parted, epochs = train_snapshots(train, validation, options)
    assert epochs == expected.epochs
    np.testing.assert_array_equal(parted["items"][1], expected.items.astype(np.float16))
    first = lightgcn.train(
        lightgcn.Likes(edges(train.filter("liked", pl.col("time") < 3)), *[NOTHING] * 3, 6, 12), options, epochs=epochs
    )
    np.testing.assert_array_equal(parted["items"][0], first.items.astype(np.float16))


def test_a_part_without_a_like_before_it_knows_nothing() -> None:
    train = frame([0, 0, 0, 0], [0, 1, 2, 3]).with_columns(liked=pl.col("time") >= 2)
    likes = lightgcn.Likes(NOTHING, NOTHING, NOTHING, NOTHING, 1, 4)
    parted, epochs = train_snapshots(train, likes, replace(OPTIONS, snapshots=2))
    assert epochs == OPTIONS.epochs and not parted["users"].any() and not parted["items"].any() and not parted["fold_in"].any()
