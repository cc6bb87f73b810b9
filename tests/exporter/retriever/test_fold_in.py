"""New users and items among known ones: where the rules of `fold_in` put them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from oracles.assembler import folded_in
from rexit.exporter.retriever import fold_in
from rexit.exporter.retriever.fold_in import Space, placed, placed_by_vectors

USERS, ITEMS, DIM = 6, 8, 4
NEW_ITEM, UNLIKED_ITEM = 6, 7
NEW_USER, LIKES_ONLY_NEWS, SILENT_USER = 3, 4, 5
LIKES = np.array(
    [
        *((0, item) for item in (0, 1, 2, 3, 4, 5, NEW_ITEM)),  # likes much, which says little of each
        *((1, item) for item in (2, NEW_ITEM)),
        *((2, item) for item in (0, 5)),
        *((NEW_USER, item) for item in (1, 4)),
        (LIKES_ONLY_NEWS, NEW_ITEM),
    ]
)


def unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def space() -> Space:
    random = np.random.default_rng(0)
    users, items = unit(random.normal(size=(USERS, DIM))), unit(random.normal(size=(ITEMS, DIM)))
    fold_in = random.normal(size=(ITEMS, DIM)) / 10
    users[[NEW_USER, LIKES_ONLY_NEWS, SILENT_USER]] = 0
    items[[NEW_ITEM, UNLIKED_ITEM]] = fold_in[[NEW_ITEM, UNLIKED_ITEM]] = 0
    return Space(*(rows.astype(np.float16) for rows in (users, items, fold_in)))


@pytest.fixture(scope="module")
def placed_space(space: Space) -> Space:
    return placed(space, *LIKES.T)


def test_known_rows_stay(space: Space, placed_space: Space) -> None:
    for name, new in (("users", [NEW_USER, LIKES_ONLY_NEWS]), ("items", [NEW_ITEM]), ("fold_in", [NEW_ITEM])):
        before, after = getattr(space, name), getattr(placed_space, name)
        assert np.flatnonzero((before != after).any(1)).tolist() == new, name


def test_a_new_item_is_one_hop_of_propagation(space: Space, placed_space: Space) -> None:
    """Users over the roots of their degrees, 7 and 2."""
    users = space.users.astype(np.float64)
    expected = unit(users[0] / np.sqrt(7) + users[1] / np.sqrt(2))
    assert placed_space.items[NEW_ITEM] == pytest.approx(expected, abs=1e-3)


def test_a_new_user_is_where_a_request_would_be_folded_in(space: Space, placed_space: Space) -> None:
    assert placed_space.users[NEW_USER] == pytest.approx(unit(folded_in(space.fold_in[[1, 4]])), abs=2e-3)


def test_who_likes_only_new_items_is_placed_after_them(placed_space: Space) -> None:
    assert placed_space.users[LIKES_ONLY_NEWS] == pytest.approx(unit(placed_space.fold_in[NEW_ITEM].astype(np.float64)), abs=2e-3)


def test_a_new_items_share_in_a_user_is_as_large_as_known_ones(space: Space, placed_space: Space) -> None:
    """|fold_in| falls with the root of the degree; the median known item says from where. Three users like the new item."""
    degrees = np.bincount(LIKES[:, 1], minlength=ITEMS)[:NEW_ITEM]
    usual = np.median(np.linalg.norm(space.fold_in[:NEW_ITEM].astype(np.float64), axis=1) * np.sqrt(degrees))
    row = placed_space.fold_in[NEW_ITEM].astype(np.float64)
    assert np.linalg.norm(row) == pytest.approx(usual / np.sqrt(3), rel=2e-3)
    assert unit(row) == pytest.approx(placed_space.items[NEW_ITEM], abs=2e-3)


def test_users_and_items_without_a_like_stay_zero(placed_space: Space) -> None:
    assert (
        not placed_space.users[SILENT_USER].any()
        and not placed_space.items[UNLIKED_ITEM].any()
        and not placed_space.fold_in[UNLIKED_ITEM].any()
    )


def test_vectors_place_items_that_nobody_likes_and_likes_place_them_again(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fold_in, "NEAREST", 2)
    vectors = np.zeros((ITEMS, 3), np.float16)
    vectors[[0, 1, 2, UNLIKED_ITEM]] = [[1, 0, 0], [0.8, 0.6, 0], [0, 0, 1], [1, 0, 0]]
    by_text = placed_by_vectors(space, [vectors[:, :2], vectors[:, 2:]])
    nearest = unit(space.items[:2].astype(np.float64).sum(0))
    assert by_text.items[UNLIKED_ITEM] == pytest.approx(nearest, abs=1e-3)
    assert not by_text.items[NEW_ITEM].any(), "it has no vector"
    assert (by_text.fold_in == space.fold_in).all() and (by_text.items[:NEW_ITEM] == space.items[:NEW_ITEM]).all()

    again = placed(by_text, *LIKES.T)
    assert (again.items[UNLIKED_ITEM] == by_text.items[UNLIKED_ITEM]).all(), "still nobody likes it"
    liked = placed(by_text, *np.vstack([LIKES, (0, UNLIKED_ITEM)]).T)
    assert liked.items[UNLIKED_ITEM] == pytest.approx(space.items[UNLIKED_ITEM] + unit(space.users[0].astype(float)), abs=2e-3)
    assert placed_by_vectors(space, []) is space and not placed_by_vectors(space, [vectors * 0]).items[UNLIKED_ITEM].any()
