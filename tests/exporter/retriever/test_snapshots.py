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


def test_each_snapshot_is_what_lightgcn_makes_of_the_parts_before_it() -> None:
    rng = np.random.default_rng(0)
    train = pl.DataFrame({"user": np.repeat(np.arange(6), 9), "time": np.tile(np.arange(9), 6), "item": rng.integers(0, 12, 54)})
    train = train.with_columns(liked=pl.Series(rng.random(54) < 0.7))
    nothing = (np.empty(0, np.int64), np.empty(0, np.int64))
    likes = lightgcn.Likes(nothing, nothing, nothing, nothing, 6, 12)
    steps: list[tuple[int, int]] = []
    parted = train_snapshots(train, likes, OPTIONS.epochs, OPTIONS, lambda _, done, total: steps.append((done, total)))
    assert (
        steps[0] == (0, total := (OPTIONS.snapshots - 1) * OPTIONS.epochs)
        and steps[-1] == (total, total)
        and steps == sorted(steps)
    )
    for k in (1, 2):
        early = train.filter("liked", pl.col("time") < 3 * k)
        expected = lightgcn.train(
            lightgcn.Likes((early["user"].to_numpy(), early["item"].to_numpy()), nothing, nothing, nothing, 6, 12), OPTIONS
        )
        np.testing.assert_array_equal(parted["users"][k - 1], expected.users.astype(np.float16))
        np.testing.assert_array_equal(parted["fold_in"][k - 1], expected.fold_in.astype(np.float16))


def test_a_part_without_a_like_before_it_knows_nothing() -> None:
    train = frame([0, 0, 0, 0], [0, 1, 2, 3]).with_columns(liked=pl.col("time") >= 2)
    nothing = (np.empty(0, np.int64), np.empty(0, np.int64))
    parted = train_snapshots(train, lightgcn.Likes(nothing, nothing, nothing, nothing, 1, 4), 3, replace(OPTIONS, snapshots=2))
    assert not parted["users"].any() and not parted["items"].any() and not parted["fold_in"].any()
