"""Drawn candidates: whose, when, where, how often, and never what the user had met by then."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from rexit.errors import InputError
from rexit.exporter.catalog.draws import with_draws
from rexit.format.candidates import Candidates, Met, draw_unmet

PATH = Path("clicks.csv")


def clicks(users: int, items: int, per_user: int, seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    rows = [(user, item) for user in range(users) for item in rng.permutation(items)[:per_user].tolist()]
    names = np.array(["train", "validation", "test"])[np.arange(len(rows)) % per_user * 3 // per_user]
    samples = pl.DataFrame(rows, ["user", "item"], orient="row")
    return samples.with_columns(time=pl.int_range(len(rows)), liked=pl.lit(True), split=pl.Series(names.tolist()))


@pytest.mark.parametrize("kind", ["uniform", "popularity"])
def test_each_like_has_so_many_items_that_its_user_had_not_met(kind: str) -> None:
    before = clicks(30, 50, 12)
    samples = with_draws(before, 50, Candidates(kind, 5), 0, PATH)
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
    sampled = with_draws(before, 14, Candidates("uniform", 2), 0, PATH).filter(~pl.col("liked"))
    later = set(before.filter(pl.col("split") != "train").select("user", "item").iter_rows())
    assert later & set(sampled.filter(pl.col("split") == "train").select("user", "item").iter_rows())


@pytest.mark.medium
@pytest.mark.parametrize("kind", ["uniform", "popularity"])
def test_unmet_items_are_drawn_uniformly_or_by_their_training_interactions(kind: str) -> None:
    """Three users train on items 1, 3 and 5 once, twice and four times; a like in test makes item 2 no more popular."""
    others = [(2, 1), (2, 3), (2, 5), (3, 3), (3, 5), (4, 5), (5, 5)]
    before = pl.DataFrame(
        [(0, 0, True, "train"), (0, 4, True, "train"), *((*pair, False, "train") for pair in others), (1, 2, False, "test")],
        ["user", "item", "liked", "split"],
        orient="row",
    ).with_columns(time=pl.int_range(10))
    drawn = pl.concat([with_draws(before, 7, Candidates(kind, 1), seed, PATH) for seed in range(1500)])
    counts = dict(drawn.filter(~pl.col("liked") & (pl.col("user") == 0)).group_by("item").len().iter_rows())
    weights = {1: 1, 2: 1, 3: 1, 5: 1, 6: 1} if kind == "uniform" else {1: 1, 3: 2, 5: 4}
    assert set(counts) == set(weights)
    for item, weight in weights.items():
        expected = 3000 * weight / sum(weights.values())
        assert abs(counts[item] - expected) < 5 * expected**0.5


@pytest.mark.parametrize("kind", ["uniform", "popularity"])
def test_the_same_seed_draws_the_same_and_another_others(kind: str) -> None:
    before = clicks(10, 40, 8)
    first, again, other = (with_draws(before, 40, Candidates(kind, 3), seed, PATH) for seed in (0, 0, 1))
    assert first.equals(again) and not first.equals(other)


def test_all_that_is_left_may_be_drawn_and_no_more() -> None:
    before = clicks(3, 12, 8)
    samples = with_draws(before, 12, Candidates("uniform", 4), 0, PATH)
    assert len(samples.filter(~pl.col("liked"))) == 3 * 8 * 4
    with pytest.raises(
        InputError,
        match=r"clicks.csv: a user met all but 4 of 12 items, expected at least 5 others to draw \(--candidates uniform:5\)",
    ):
        with_draws(before, 12, Candidates("uniform", 5), 0, PATH)


def test_all_ratings_of_the_user_are_met_and_only_likes_have_draws() -> None:
    before = clicks(5, 9, 8).with_columns(liked=pl.col("item") % 2 == 0)
    samples = with_draws(before, 9, Candidates("uniform", 1), 0, PATH)
    assert samples.join(before, on=samples.columns, how="semi").equals(before)
    assert len(samples) == len(before) + before["liked"].sum()
    last = samples.join(before, on=samples.columns, how="anti").filter(pl.col("split") == "test")
    assert last.join(before, on=["user", "item"], how="semi").is_empty()


def test_a_row_that_rejects_too_often_is_drawn_from_its_rest() -> None:
    """One item is almost all that proposals are, and the user met it."""
    weights = np.array([1e12, 1.0, 1.0, 0.0])
    met = Met.of(np.zeros(1, np.int64), np.zeros(1, np.int64), 4)
    rows = draw_unmet(np.zeros(300, np.int64), met, weights, 1, 0)
    assert set(rows.ravel().tolist()) == {1, 2} and 100 < (rows == 1).sum() < 200


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rated", Candidates()),
        ("uniform:4", Candidates("uniform", 4)),
        ("popularity", Candidates("popularity", 9)),
        ("retrieved", Candidates("retrieved", 100)),
        *((text, "expected rated, uniform") for text in ("", "rated:3", "likes", "Uniform:3", "uniform 3")),
        *((f"retrieved:{n}", "expected a whole number from 1 to 65536") for n in ("0", "-1", "1.5", "65537", "", "N")),
    ],
)
def test_how_candidates_are_written(text: str, expected: Candidates | str) -> None:
    if isinstance(expected, Candidates):
        assert Candidates.parse(text) == expected == Candidates.parse(str(expected))
    else:
        with pytest.raises(InputError, match=expected):
            Candidates.parse(text)
