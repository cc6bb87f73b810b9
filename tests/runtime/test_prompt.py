"""Prompts by hand: every piece is one token of its own number, so a prompt reads as the pieces it is made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders.bundles.bundle import BundleOptions, write_bundle
from builders.bundles.catalog import CatalogContents, make_catalog
from rexit import runtime

# Items 10, 20, 30, 40; titles are pieces 1 to 4. Users 1, 2, 3; ages are pieces 11 to 13.
ITEMS = [10, 20, 30, 40]
TITLE, AGE = [1, 2, 3, 4], [11, 12, 13]
YES, NO, UNSEEN, EMPTY, MISSING = 21, 22, 23, 24, 25
ENTRY = [{"op": "item_field", "field": "title"}, {"op": "verdict", "yes": YES, "no": NO}]
# Per user: (time, item row, liked).
EVENTS = [
    [(5, 0, 1), (6, 1, 0), (9, 0, 0)],
    [(1, 0, 1), (2, 2, 1), (7, 3, 1)],
    [(3, 1, 1), (4, 2, 0), (8, 2, 1)],
]
# Items 0 and 1 nearly alike, 2 opposite, 3 between; users 2 and 3 (rows 1, 2) as items 2 and 1.
ITEM_VECTORS = [[1, 0], [0.75, 0.5], [-1, 0], [0, 1]]
USER_VECTORS = [[1, 0], [-1, 0], [0.75, 0.5]]


def catalog_of(prefix: list[Any], candidate: list[Any]) -> CatalogContents:
    info, _ = make_catalog()
    flat = [event for events in EVENTS for event in events]
    items = np.array([item for _, item, _ in flat])
    ratings = sorted(range(len(flat)), key=lambda n: (flat[n][1], flat[n][0]))
    likes: list[int] = []
    for item in range(4):
        likes += np.cumsum([flat[n][2] for n in ratings if flat[n][1] == item], dtype=int).tolist()
    by_item = [n for events in EVENTS for n in sorted(range(len(events)), key=lambda n, e=events: (e[n][1], n))]
    tables = {
        "users.safetensors": {
            "ids": np.array([1, 2, 3], np.int64),
            "embeddings": np.array(USER_VECTORS, np.float16),
            "similar": np.array([[2, 1], [2, 0], [0, 1]], np.int32),
            "history_offsets": np.array([0, 3, 6, 9], np.int64),
            "history_items": items.astype(np.int32),
            "history_times": np.array([time for time, _, _ in flat], np.int64),
            "history_liked": np.array([liked for _, _, liked in flat], np.uint8),
            "history_by_item": np.array(by_item, np.int32),
            "field.age": np.array(AGE, np.int32),
        },
        "items.safetensors": {
            "ids": np.array(ITEMS, np.int64),
            "embeddings": np.array(ITEM_VECTORS, np.float16),
            "fold_in": np.array(ITEM_VECTORS, np.float16),
            "rating_offsets": np.cumsum([0, *(int((items == n).sum()) for n in range(4))]).astype(np.int64),
            "rating_times": np.array([flat[n][0] for n in ratings], np.int64),
            "rating_likes": np.array(likes, np.int32),
            "field.title": np.array(TITLE, np.int32),
        },
        "pieces.safetensors": {"offsets": np.arange(61, dtype=np.int64), "tokens": np.arange(60, dtype=np.int32)},
    }
    program = {"prefix": prefix, "candidate": candidate, "max_prefix_tokens": 20, "max_candidate_tokens": 20}
    info |= {"counts": {"users": 3, "items": 4, "interactions": 9, "pieces": 60}, "embedding": {"dim": 2}, "prompt": program}
    return CatalogContents(info, tables)


def prompt(tmp_path: Path, ops: list[Any], user: int, item: int = 10, part: str = "candidate", **options: Any) -> list[int]:
    """What `ops` append, as the prefix or as the candidate's part (which ends in piece 50)."""
    end = {"op": "piece", "piece": 50}
    catalog = catalog_of(ops, [end]) if part == "prefix" else catalog_of([], [*ops, end])
    session = runtime.open(write_bundle(tmp_path / "bundle", BundleOptions(catalog)))
    prefix, (candidate,) = session.prompt(user, [item], **options)
    return prefix.tolist() if part == "prefix" else candidate.tolist()[:-1]


RECENT = {"op": "history", "order": "recent", "limit": 2, "entry": ENTRY, "empty": EMPTY}
NEAREST = {**RECENT, "order": "nearest"}
USER_RATE = {"op": "user_like_rate", "bins": [30, 31, 32, 33], "missing": MISSING}
ITEM_RATE = {"op": "item_like_rate", "bins": [30, 31, 32, 33], "missing": MISSING}
COUNT = {"op": "item_count", "bins": [40, 41, 42]}
USER_COUNT = {**COUNT, "op": "user_count"}
LIKED = {"op": "similar_liked", "limit": 2, "entry": ENTRY, "empty": EMPTY}
VERDICT = {"op": "similar_verdict", "limit": 2, "yes": YES, "no": NO, "unseen": UNSEEN}
SIMILAR_RATE = {**ITEM_RATE, "op": "similar_like_rate", "limit": 2}
NEAREST_RATE = {**ITEM_RATE, "op": "nearest_like_rate", "limit": 2}


@pytest.mark.parametrize(
    ("op", "user", "options", "expected"),
    [
        ({"op": "user_field", "field": "age", "missing": MISSING}, 2, {}, [12]),
        ({"op": "user_field", "field": "age", "missing": MISSING}, 9, {}, [MISSING]),
        (RECENT, 1, {}, [2, NO, 1, NO]),
        (RECENT, 1, {"as_of": 9}, [1, YES, 2, NO]),  # time 9 itself is not visible at 9
        (RECENT, 1, {"as_of": 5}, [EMPTY]),
        (RECENT, 1, {"as_of": 6, "recent": [40, (30, False)]}, [4, YES, 3, NO]),
        (RECENT, 9, {"recent": [(30, False)]}, [3, NO]),
        (USER_RATE, 1, {}, [31]),  # (1 + 1) * 4 // (3 + 2)
        (USER_RATE, 2, {}, [33]),  # (3 + 1) * 4 // (3 + 2)
        (USER_RATE, 1, {"as_of": 6}, [32]),  # (1 + 1) * 4 // (1 + 2)
        (USER_RATE, 9, {}, [MISSING]),
        (USER_COUNT, 1, {}, [42]),  # 3 interactions: 2 bits
        (USER_COUNT, 1, {"as_of": 6}, [41]),
        (USER_COUNT, 9, {}, [40]),
        (USER_COUNT, 9, {"recent": [30]}, [41]),
        # User 1's neighbours are 3, then 2: one like each, latest first, not item 10 or 20, which user 1 has met.
        (LIKED, 1, {}, [3, YES, 4, YES]),
        (LIKED, 1, {"as_of": 7}, [3, YES]),  # user 3's like of 30 is at 8, user 2's of 30 at 2, of 40 at 7
        (LIKED, 9, {}, [EMPTY]),
        # Fold-in of item 30 is user 2's vector: neighbours 2, then 3; 30 itself is met; user 2 liked 40 last, user 3 liked 20.
        (LIKED, 9, {"recent": [30]}, [4, YES, 2, YES]),
        (LIKED, 9, {"recent": [(30, False)]}, [EMPTY]),
    ],
)
def test_prefix_ops(op: dict[str, Any], user: int, options: dict[str, Any], expected: list[int], tmp_path: Path) -> None:
    assert prompt(tmp_path, [op], user, part="prefix", **options) == expected


@pytest.mark.parametrize(
    ("op", "user", "item", "options", "expected"),
    [
        ({"op": "item_field", "field": "title"}, 1, 30, {}, [3]),
        (ITEM_RATE, 1, 10, {}, [32]),  # liked, liked, not: (2 + 1) * 4 // (3 + 2)
        (ITEM_RATE, 1, 10, {"as_of": 5}, [32]),  # one, liked: (1 + 1) * 4 // 3
        (ITEM_RATE, 1, 10, {"as_of": 1}, [MISSING]),
        (ITEM_RATE, 9, 10, {"as_of": 1, "recent": [10]}, [MISSING]),  # fresh ones are not counted
        (COUNT, 1, 10, {"as_of": 1}, [40]),
        (COUNT, 1, 10, {"as_of": 2}, [41]),
        (COUNT, 1, 10, {}, [42]),  # 3 interactions: 2 bits
        # User 1 met 10 (last: no) and 20 (no). Nearest to 20: 10. Nearest to 10: 20, itself left out.
        (NEAREST, 1, 20, {}, [1, NO]),
        (NEAREST, 1, 20, {"as_of": 7}, [1, YES]),
        (NEAREST, 1, 10, {"as_of": 6}, [EMPTY]),
        # 40 is as near to 10 as to 30: a tie goes to the later one.
        (NEAREST, 9, 40, {"recent": [10, 30]}, [3, YES, 1, YES]),
        (NEAREST, 9, 40, {"recent": [30, 10, 20]}, [2, YES, 1, YES]),
        # Neighbours of user 1: 3, then 2.
        (VERDICT, 1, 30, {}, [YES, YES]),
        (VERDICT, 1, 30, {"as_of": 8}, [NO, YES]),
        (VERDICT, 1, 30, {"as_of": 6}, [NO, YES]),
        (VERDICT, 1, 30, {"as_of": 4}, [UNSEEN]),  # user 1 had liked nothing yet: nobody was similar
        (VERDICT, 2, 10, {}, [UNSEEN, NO]),  # users 3 and 1
        (VERDICT, 2, 10, {"as_of": 6}, [UNSEEN]),  # the likes of 10 and 30, which cancel out; that of 40 is later
        (VERDICT, 2, 10, {"as_of": 6, "recent": [20]}, [UNSEEN, YES]),
        (VERDICT, 1, 40, {}, [UNSEEN, YES]),
        (VERDICT, 9, 40, {}, [UNSEEN]),
        (VERDICT, 1, 10, {"recent": [30]}, [UNSEEN]),  # folded in from 10 and 30, which cancel out
        ({**VERDICT, "limit": 1}, 1, 30, {}, [YES]),
        (SIMILAR_RATE, 1, 30, {}, [33]),  # two likes: (2 + 1) * 4 // (2 + 2)
        (SIMILAR_RATE, 1, 30, {"as_of": 8}, [32]),  # one of two: (1 + 1) * 4 // (2 + 2)
        ({**SIMILAR_RATE, "limit": 1}, 1, 30, {"as_of": 8}, [31]),  # (0 + 1) * 4 // (1 + 2)
        (SIMILAR_RATE, 2, 10, {}, [31]),  # user 3 has not met it, user 1 disliked it
        (SIMILAR_RATE, 1, 30, {"as_of": 4}, [MISSING]),  # nobody was similar
        (NEAREST_RATE, 1, 20, {}, [31]),
        (NEAREST_RATE, 1, 20, {"as_of": 7}, [32]),  # (1 + 1) * 4 // (1 + 2)
        (NEAREST_RATE, 1, 10, {"as_of": 6}, [MISSING]),
        (NEAREST_RATE, 9, 40, {"recent": [10, 30]}, [33]),
        ({**NEAREST_RATE, "limit": 1}, 9, 40, {"recent": [10, (30, False)]}, [31]),
        (RECENT, 1, 30, {"as_of": 6}, [1, YES]),  # ops that need no target may stand here too
    ],
)
def test_candidate_ops(
    op: dict[str, Any], user: int, item: int, options: dict[str, Any], expected: list[int], tmp_path: Path
) -> None:
    assert prompt(tmp_path, [op], user, item, **options) == expected


@pytest.mark.parametrize(
    ("op", "user", "item", "options", "expected"),
    [
        (LIKED, 1, 40, {}, [EMPTY]),
        (VERDICT, 1, 40, {}, [UNSEEN]),
        (LIKED, 9, 40, {"recent": [30]}, [EMPTY]),
        (VERDICT, 9, 40, {"recent": [30]}, [UNSEEN]),
        # Folded in from 10, the third user's side: user 1 is no neighbour, though their zero lies before user 2's -1.
        (VERDICT, 9, 20, {"recent": [10]}, [YES, UNSEEN]),
        (NEAREST, 1, 20, {}, [EMPTY]),  # the target has no direction
        (NEAREST, 1, 10, {}, [EMPTY]),  # the only other item of the history has none
        (NEAREST, 3, 10, {}, [3, YES]),
    ],
)
def test_nothing_known_means_no_neighbours(
    op: dict[str, Any], user: int, item: int, options: dict[str, Any], expected: list[int], tmp_path: Path
) -> None:
    """User 1 and item 20 have zero embeddings, item 30 adds nothing to a folded-in user's."""
    info, tables = catalog_of([], [op, {"op": "piece", "piece": 50}])
    tables["users.safetensors"]["embeddings"][0] = 0
    tables["users.safetensors"]["similar"] = np.array([[0, 0], [2, 1], [1, 2]], np.int32)
    tables["items.safetensors"]["embeddings"][1] = 0
    tables["items.safetensors"]["fold_in"][2] = 0
    session = runtime.open(write_bundle(tmp_path / "bundle", BundleOptions(CatalogContents(info, tables))))
    _, (candidate,) = session.prompt(user, [item], **options)
    assert candidate.tolist()[:-1] == expected
