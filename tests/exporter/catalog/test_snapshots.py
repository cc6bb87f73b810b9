"""Snapshots: what a training prompt retrieves with is older than what it is asked."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from rexit.exporter.catalog import lightgcn
from rexit.exporter.catalog.snapshots import NEVER, begins, parts, train_snapshots
from rexit.exporter.options import LightGCNOptions

OPTIONS = LightGCNOptions(dim=4, layers=2, epochs=3)


def frame(user: list[int], time: list[int]) -> pl.DataFrame:
    n = len(user)
    return pl.DataFrame({"user": user, "time": time, "item": list(range(n)), "liked": [True] * n})


def test_parts_are_equal_shares_of_each_user_in_order() -> None:
    made = parts(frame([0] * 10 + [1] * 3, [*range(10), 5, 6, 7]), 5)
    assert made["part"].to_list() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 0, 1, 3]


def test_what_has_one_time_is_in_one_part_the_later_one() -> None:
    assert parts(frame([0] * 6, [1, 2, 2, 2, 3, 4]), 3)["part"].to_list() == [0, 1, 1, 1, 2, 2]


def test_begins_are_the_first_times_of_parts_or_later_ones() -> None:
    made = begins(parts(frame([0] * 10 + [2] * 3, [*range(10), 5, 6, 7]), 5), 4, 5)
    assert made.tolist() == [[2, 4, 6, 8], [NEVER] * 4, [6, 7, 7, NEVER], [NEVER] * 4]


@pytest.mark.parametrize("seed", range(3))
def test_no_snapshot_knows_what_its_prompts_are_asked(seed: int) -> None:
    """Random histories with many ties: whatever a training interaction's prompt retrieves with has learned of this user from
    strictly earlier interactions alone."""
    rng = np.random.default_rng(seed)
    rows = pl.DataFrame({"user": rng.integers(0, 30, 600), "time": rng.integers(0, 25, 600)}).sort("user", "time")
    made = parts(rows, 4)
    starts = begins(made, 30, 4)
    for user, time in rows.iter_rows():
        part = int((starts[user] <= time).sum())
        known = made.filter((pl.col("user") == user) & (pl.col("part") < part))
        assert not len(known) or known["time"].max() < time


def test_each_snapshot_is_what_lightgcn_makes_of_the_parts_before_it() -> None:
    rng, count = np.random.default_rng(0), 3
    train = pl.DataFrame({"user": np.repeat(np.arange(6), 9), "time": np.tile(np.arange(9), 6), "item": rng.integers(0, 12, 54)})
    train = train.with_columns(liked=pl.Series(rng.random(54) < 0.7))
    nothing = (np.empty(0, np.int64), np.empty(0, np.int64))
    likes = lightgcn.Likes(nothing, nothing, nothing, nothing, 6, 12)
    told: list[tuple[int, int]] = []
    made = train_snapshots(train, likes, count, OPTIONS.epochs, OPTIONS, lambda *seen: told.append(seen))
    assert told[0] == (0, total := (count - 1) * OPTIONS.epochs) and told[-1] == (total, total) and told == sorted(told)
    for k in (1, 2):
        early = train.filter("liked", pl.col("time") < 3 * k)
        expected = lightgcn.train(
            lightgcn.Likes((early["user"].to_numpy(), early["item"].to_numpy()), nothing, nothing, nothing, 6, 12), OPTIONS
        )
        np.testing.assert_array_equal(made["users"][k - 1], expected.users.astype(np.float16))
        np.testing.assert_array_equal(made["fold_in"][k - 1], expected.fold_in.astype(np.float16))


def test_a_part_without_a_like_before_it_knows_nothing() -> None:
    train = frame([0, 0, 0, 0], [0, 1, 2, 3]).with_columns(liked=pl.col("time") >= 2)
    nothing = (np.empty(0, np.int64), np.empty(0, np.int64))
    made = train_snapshots(train, lightgcn.Likes(nothing, nothing, nothing, nothing, 1, 4), 2, 3, OPTIONS, lambda *_: None)
    assert not made["users"].any() and not made["items"].any() and not made["fold_in"].any()
