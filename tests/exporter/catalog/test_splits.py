"""Every interaction is in one split: by which rule, and that the graph never holds what the model is asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from rexit.errors import InputError
from rexit.exporter.catalog import catalog_files
from rexit.exporter.catalog.splits import assign
from rexit.exporter.options import Columns, IndexOptions

PATH = Path("ratings.csv")


def frame(user: list[int], item: list[int], time: list[int], split: list[str] | None = None) -> pl.DataFrame:
    assigned = pl.DataFrame({"user": user, "item": item, "time": time})
    return assigned if split is None else assigned.with_columns(split=pl.Series(split))


def of_one_user(n: int) -> pl.DataFrame:
    return frame([0] * n, list(range(n)), list(range(n, 0, -1)))


def splits(interactions: pl.DataFrame, split: str | None = None) -> list[str]:
    """Of each interaction, in the order that `assign` puts them in."""
    return assign(interactions, IndexOptions(split=split), PATH)[0]["split"].to_list()


def test_the_last_tenth_tests_the_tenth_before_validates_the_rest_trains() -> None:
    assigned, info = assign(of_one_user(25), IndexOptions(), PATH)
    assert assigned["time"].to_list() == list(range(1, 26))
    assert assigned["split"].to_list() == ["train"] * 21 + ["validation"] * 2 + ["test"] * 2
    assert info == {"by": "user", "shares": [0.8, 0.9]}


@pytest.mark.parametrize(("n", "held_out"), [(9, 0), (10, 1), (19, 1), (20, 2), (29, 2), (30, 3)])
def test_shares_are_exact_where_floating_point_is_not(n: int, held_out: int) -> None:
    """(1 - 0.9) * 10 is 0.9999999999999998."""
    both = pl.concat([of_one_user(n), of_one_user(40).with_columns(user=pl.lit(1, pl.Int64))])
    assigned = splits(both)[:n]
    assert (assigned.count("validation"), assigned.count("test")) == (held_out, held_out)


def test_borders_of_many_digits() -> None:
    """5000 times the numerator of the first is beyond uint32, in which polars counts rows."""
    assigned = splits(of_one_user(5000), "user:0.899999,0.949999")
    assert (assigned.count("validation"), assigned.count("test")) == (250, 250)


def test_ties_are_broken_by_item_and_users_do_not_mix() -> None:
    assigned, info = assign(
        frame([1, 0, 1, 0] * 2, [5, 7, 4, 6, 1, 2, 3, 0], [1] * 4 + [0, 2, 2, 0], ["train"] * 6 + ["test", "validation"]),
        IndexOptions(columns=Columns(split="fold")),
        PATH,
    )
    assert assigned.select("user", "item").rows() == [(0, 0), (0, 6), (0, 7), (0, 2), (1, 1), (1, 4), (1, 5), (1, 3)]
    assert assigned["split"].to_list() == ["validation", "train", "train", "train", "train", "train", "train", "test"]
    assert info == {"by": "column"}


def test_global_borders_part_all_users_at_the_same_times() -> None:
    rng = np.random.default_rng(0)
    users, times = rng.integers(0, 9, 200).tolist(), rng.integers(0, 60, 200).tolist()
    assigned, info = assign(frame(users, list(range(200)), times), IndexOptions(split="time:0.7,0.85"), PATH)
    validation, test = info["borders"]
    assert (validation, test) == (sorted(times)[140], sorted(times)[170])
    for time, split in assigned.select("time", "split").rows():
        assert {"train": 0, "validation": 1, "test": 2}[split] == (time >= validation) + (time >= test)
    assert info == {"by": "time", "shares": [0.7, 0.85], "borders": [validation, test]}


def test_leave_last() -> None:
    both = pl.concat([of_one_user(8), of_one_user(3).with_columns(user=pl.lit(1, pl.Int64))])
    assigned, info = assign(both, IndexOptions(split="leave-last:2,1"), PATH)
    assert assigned["split"].to_list()[:8] == ["train"] * 5 + ["validation"] * 2 + ["test"]
    assert assigned["split"].to_list()[8:] == ["train"] * 3, "nothing would be left to train on"
    assert info == {"by": "leave-last", "counts": [2, 1]}


@pytest.mark.parametrize("later", [6, 5])
@pytest.mark.parametrize("user", [0, 1])  # the first and the second part
def test_a_graph_that_knows_an_answer_is_refused(monkeypatch: pytest.MonkeyPatch, user: int, later: int) -> None:
    """The user's item stands in `test` at 5, and in `train` at 6 or at 5; the other user has another item each time."""
    rows = frame([user] * 4, [0, 0, 2, 3], [5, later, 2, 3], ["test", "train", "validation", "train"])
    rows = pl.concat([rows, frame([1 - user] * 4, [4, 5, 6, 7], [1, 2, 3, 4], ["train"] * 4)])
    monkeypatch.setattr(catalog_files, "ROWS", 4)
    with pytest.raises(InputError, match=r"ratings.csv: 1 interactions of the train split .* would know the model's answer"):
        assign(rows, IndexOptions(columns=Columns(split="fold")), PATH)


@pytest.mark.parametrize(
    "rule",
    [
        "",
        "user:0.9,0.8",
        "user:0,0.5",
        "user:0.5,1",
        "user:1/0,0.5",
        "user:nan,0.5",
        "time:a,b",
        "leave-last:0,1",
        "leave-last:1,1001",
        "leave-last:1,1e999999999",
        "user: 0.1,0.2",
        "leave-last:1,0.5",
        "random:0.8,0.9",
    ],
)
def test_a_rule_that_is_none_is_named(rule: str) -> None:
    with pytest.raises(InputError) as caught:
        splits(of_one_user(20), rule)
    assert str(caught.value).startswith(f"split {rule!r}, expected `user:A,B` or `time:A,B` with shares 0 < A < B < 1")


@pytest.mark.parametrize(
    ("interactions", "options", "message"),
    [
        (of_one_user(9), IndexOptions(), "the validation split is empty: 9 interactions of 1 users are too few for this --split"),
        (of_one_user(2), IndexOptions(split="leave-last:1,1"), "the validation split is empty: 2 interactions of 1 users"),
        (
            frame([0] * 10, list(range(10)), [1] * 7 + [2] * 3),
            IndexOptions(split="time:0.8,0.9"),
            "the validation split is empty: its borders fall on the times 2 and 2",
        ),
        (
            frame([0] * 3, [0, 1, 2], [0, 1, 2], ["train", "train", "test"]),
            IndexOptions(columns=Columns(split="fold")),
            "the validation split is empty: no interaction has it in the column 'fold'",
        ),
        (
            frame([0] * 3, [0, 1, 2], [0, 1, 2], ["test", "validation", "test"]),
            IndexOptions(columns=Columns(split="fold")),
            "the train split is empty: no interaction has it in the column 'fold'",
        ),
    ],
)
def test_an_empty_split_is_named(interactions: pl.DataFrame, options: IndexOptions, message: str) -> None:
    with pytest.raises(InputError) as caught:
        assign(interactions, options, PATH)
    assert str(caught.value).startswith(f"ratings.csv: {message}")
