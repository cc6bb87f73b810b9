"""Slates are what a recommender would have served: in time order, and seeing nothing that comes later."""

from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from builders.bundles.held_out import write_two_tastes
from rexit.data.slates import Slate, cut, draw, spread, spread_users
from rexit.errors import InputError
from rexit.format.bundle import Catalog, Split
from rexit.format.candidates import Candidates


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    return Catalog.open(write_two_tastes(tmp_path_factory.mktemp("slates")).catalog)


def with_split(catalog: Catalog, split: Split) -> Catalog:
    """The catalog's users and items with another split."""
    names = {name: getattr(catalog, name) for name in ("path", "info", "users", "items", "inputs")}
    return cast(Catalog, SimpleNamespace(**names, candidates=Candidates(), split=lambda _name: split))


def test_every_pair_once_in_order_and_nothing_later_visible(catalog: Catalog) -> None:
    split = catalog.split("validation")
    made = cut(catalog, "validation", 4)
    assert [catalog.items.row(i) for s in made for i in s.items] == split.items.tolist()
    assert np.concatenate([s.liked for s in made]).tolist() == split.liked.tolist()
    at = 0
    for slate in made:
        part = slice(at, at + len(slate.items))
        assert {catalog.users.id(int(u)) for u in split.users[part]} == {slate.user}
        assert (split.times[part] >= slate.as_of).all(), "an interaction of the slate would be in its own prompt"
        at += len(slate.items)
    assert max(len(s.items) for s in made) == 4


def test_same_time_across_two_slates_is_not_visible(catalog: Catalog) -> None:
    liked, inputs = np.array([True, False, True, False]), np.zeros((4, 0), np.int32)
    split = Split(np.zeros(4, int), np.arange(4), np.array([5, 7, 7, 7]), liked, inputs)
    assert [s.as_of for s in cut(with_split(catalog, split), "test", 2)] == [5, 7]


@pytest.mark.parametrize("size", [0, -1])
def test_size_below_one(catalog: Catalog, size: int) -> None:
    with pytest.raises(InputError, match=f"slate size {size}, expected at least 1"):
        cut(catalog, "test", size)


def test_empty_split(catalog: Catalog) -> None:
    nothing = np.zeros(0, int)
    empty = with_split(catalog, Split(nothing, nothing, nothing, nothing.astype(bool), np.zeros((0, 0), np.int32)))
    with pytest.raises(InputError, match="catalog: the test split is empty"):
        cut(empty, "test", 5)


def test_spread_reaches_both_ends(catalog: Catalog) -> None:
    made = cut(catalog, "test", 4)
    some = spread(made, 5)
    assert (some[0], some[-1], len(some)) == (made[0], made[-1], 5)
    assert spread(made, 0) == made


def test_a_limit_takes_whole_users() -> None:
    """A bound on the users' mean loss from a limited sample, 50 times; who has few slates loses most. With slates evenly spaced
    it is wrong 50 times."""
    wrong = 0
    for seed in range(50):
        random = np.random.default_rng(seed)
        slates_of = random.choice([1, 20], 2000)
        losses = np.where(slates_of == 1, 0.03, 0.0) + random.normal(0, 0.02, 2000)
        none = np.zeros(1, np.bool_)
        slates = [Slate(user, (n,), None, none) for user, count in enumerate(slates_of.tolist()) for n in range(count)]
        sample = spread_users(slates, 3000)
        users = np.unique([slate.user for slate in sample])
        assert 2500 < len(sample) <= 3000 and len(sample) == slates_of[users].sum()
        bound = losses[users].mean() + 1.645 * losses[users].std() / np.sqrt(len(users))
        wrong += int(bound < losses.mean())
    assert wrong <= 6
    assert len(spread_users(slates, 1)) == slates_of[0], "one user at least"
    assert spread_users(slates, 0) == slates


def test_draw_is_deterministic_in_order_and_without_repeats(catalog: Catalog) -> None:
    made = cut(catalog, "train", 4)
    drawn = draw(made, 5)
    assert drawn == draw(made, 5) != draw(made, 5, seed=1)
    places = [made.index(slate) for slate in drawn]
    assert places == sorted(set(places)) and len(draw(made, 10**6)) == len(made)
