"""Unrated items: what is added to each like, and what never is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from rexit.errors import InputError
from rexit.exporter.catalog.splits import with_unrated
from rexit.exporter.options import Columns, IndexOptions

PATH = Path("ratings.csv")
USERS = pl.Series(["few", "most", *(f"u{n}" for n in range(40))]).sort()
ITEMS = pl.Series([f"i{n}" for n in range(42)]).sort()
NUMBERS = np.array([int(text[1:]) for text in ITEMS])


@pytest.fixture
def ratings() -> pl.DataFrame:
    """User `few` likes one item at 5 and does not like one at 6; `most` liked all but two of the 40, at 100 and on; item i has
    one rating more the smaller i. Nobody rated the last two items."""
    rows = [("few", "i0", 5, True), ("few", "i1", 6, False), *(("most", f"i{n}", 100 + n, True) for n in range(38))]
    rows += [(f"u{n}", f"i{item}", 50, False) for n in range(40) for item in range(40 - n)]
    users, items = ({text: row for row, text in enumerate(ids)} for ids in (USERS, ITEMS))
    frame = pl.DataFrame(
        [(users[u], items[i], t, liked) for u, i, t, liked in rows], ["user", "item", "time", "liked"], orient="row"
    )
    return frame.sample(fraction=1, shuffle=True, seed=0)


def added(ratings: pl.DataFrame, each: int = 9, seed: int = 0) -> pl.DataFrame:
    result = with_unrated(ratings, USERS, ITEMS, each, seed, PATH)
    assert result.head(len(ratings)).equals(ratings)
    return result.tail(len(result) - len(ratings))


def test_each_like_brings_items_that_its_user_never_rated_at_its_own_time(ratings: pl.DataFrame) -> None:
    rows = added(ratings)
    assert rows.join(ratings, on=["user", "item"], how="inner").is_empty()
    assert not rows.select(pl.struct("user", "item").is_duplicated()).to_series().any() and not rows["liked"].any()
    few, most = (rows.filter(pl.col("user") == USERS.index_of(user)) for user in ("few", "most"))
    assert len(few) == 9 and set(few["time"]) == {5}
    assert {ITEMS[row] for row in most["item"]} == {"i38", "i39"} and set(most["time"]) == {100, 101}  # what is left
    assert len(rows) == 11  # who likes nothing gets nothing


def test_popular_items_are_drawn_more_often(ratings: pl.DataFrame) -> None:
    draws = [added(ratings, 5, seed).filter(pl.col("user") == USERS.index_of("few")) for seed in range(60)]
    numbers = np.concatenate([NUMBERS[rows["item"].to_numpy()] for rows in draws])
    assert len(numbers) == 300
    assert np.mean(numbers < 21) > 0.65  # i2 to i20 have 72 % of the ratings of what may be drawn, and are half of it


def test_seed_decides_and_the_order_of_the_file_does_not(ratings: pl.DataFrame) -> None:
    rows, shuffled, other = added(ratings), added(ratings.sample(fraction=1, shuffle=True, seed=1)), added(ratings, seed=1)
    assert rows.equals(shuffled) and not rows.equals(other)


def test_users_who_rated_everything_get_nothing(ratings: pl.DataFrame) -> None:
    everything = ratings.clear().vstack(ratings.filter(pl.col("user") == USERS.index_of("most")))
    with pytest.raises(InputError, match=r"ratings\.csv: every user rated every item, so --unrated has nothing to add"):
        added(everything)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (IndexOptions(unrated=-1), "unrated is -1, expected at least 0"),
        (IndexOptions(unrated=9, columns=Columns(split="fold")), "unrated 9 excludes a split column"),
    ],
)
def test_options_that_exclude_it(options: IndexOptions, message: str) -> None:
    with pytest.raises(InputError, match=message):
        options.check()
