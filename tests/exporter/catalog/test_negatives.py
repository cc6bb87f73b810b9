"""Sampled negatives: whose, when, where, and never what the user had met by then."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from rexit.errors import InputError
from rexit.exporter.catalog.splits import with_negatives

PATH = Path("clicks.csv")


def clicks(users: int, items: int, per_user: int, seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    rows = [(user, item) for user in range(users) for item in rng.permutation(items)[:per_user].tolist()]
    names = np.array(["train", "validation", "test"])[np.arange(len(rows)) % per_user * 3 // per_user]
    samples = pl.DataFrame(rows, ["user", "item"], orient="row")
    return samples.with_columns(time=pl.int_range(len(rows)), liked=pl.lit(True), split=pl.Series(names.tolist()))


def test_each_interaction_has_so_many_items_that_its_user_had_not_met() -> None:
    before = clicks(30, 50, 12)
    samples = with_negatives(before, 50, 5, 0, PATH)
    assert samples.filter(pl.col("liked")).equals(before), "the interactions themselves are what they were"
    assert samples.equals(samples.sort("user", "time", "item", maintain_order=True))
    for user, part in samples.partition_by("user", as_dict=True).items():
        history: set[int] = set()
        for name in ("train", "validation", "test"):
            history |= set(before.filter((pl.col("user") == user[0]) & (pl.col("split") == name))["item"])
            assert not history & set(part.filter(~pl.col("liked") & (pl.col("split") == name))["item"])
    sampled = samples.filter(~pl.col("liked"))
    beside = {(u, t, s): group["item"].to_list() for (u, t, s), group in sampled.group_by("user", "time", "split")}
    assert set(beside) == set(before.select("user", "time", "split").iter_rows())
    assert all(len(items) == len(set(items)) == 5 for items in beside.values())


def test_a_training_negative_may_be_met_later() -> None:
    """If none ever were, a model could learn in training what a user does not meet in validation and test."""
    before = clicks(30, 14, 12)
    sampled = with_negatives(before, 14, 2, 0, PATH).filter(~pl.col("liked"))
    later = set(before.filter(pl.col("split") != "train").select("user", "item").iter_rows())
    assert later & set(sampled.filter(pl.col("split") == "train").select("user", "item").iter_rows())


def test_every_unmet_item_is_drawn_about_as_often() -> None:
    before = pl.DataFrame({"user": [0, 0, 1], "item": [0, 4, 2], "time": [0, 1, 2], "liked": [True] * 3, "split": ["train"] * 3})
    negative_rows = pl.concat([with_negatives(before, 6, 2, seed, PATH) for seed in range(1000)]).filter(~pl.col("liked"))
    for user, unmet in ((0, [1, 2, 3, 5]), (1, [0, 1, 3, 4, 5])):
        counts = negative_rows.filter(pl.col("user") == user)["item"].value_counts()
        assert sorted(counts["item"].to_list()) == unmet
        mean = counts["count"].sum() / len(unmet)
        assert (abs(counts["count"] - mean) < 5 * mean**0.5).all()


def test_the_same_seed_draws_the_same_and_another_others() -> None:
    before = clicks(10, 40, 8)
    first, again, other = (with_negatives(before, 40, 3, seed, PATH) for seed in (0, 0, 1))
    assert first.equals(again) and not first.equals(other)


def test_all_that_is_left_may_be_drawn_and_no_more() -> None:
    before = clicks(3, 12, 8)
    samples = with_negatives(before, 12, 4, 0, PATH)
    assert len(samples.filter(~pl.col("liked"))) == 3 * 8 * 4
    with pytest.raises(InputError, match=r"clicks.csv: a user met all but 4 of 12 items, expected at least 5 others"):
        with_negatives(before, 12, 5, 0, PATH)
