"""Every interaction is in one split: by which rule, and that the graph never holds what the model is asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from rexit.errors import InputError
from rexit.exporter.catalog.splits import assign
from rexit.exporter.options import Columns, IndexOptions

PATH = Path("ratings.csv")


def frame(user: list[int], item: list[int], time: list[int], split: list[str] | None = None) -> pl.DataFrame:
    made = pl.DataFrame({"user": user, "item": item, "time": time})
    return made if split is None else made.with_columns(split=pl.Series(split))


def of_one_user(n: int) -> pl.DataFrame:
    return frame([0] * n, list(range(n)), list(range(n, 0, -1)))


def splits(interactions: pl.DataFrame, split: str | None = None, share: float = 0.6) -> list[str]:
    """Of each interaction, in the order that `assign` puts them in."""
    return assign(interactions, IndexOptions(split=split, graph_share=share), PATH)[0]["split"].to_list()


def test_the_last_tenth_tests_the_tenth_before_validates_and_the_retriever_has_the_first_part_of_the_rest() -> None:
    made, told = assign(of_one_user(25), IndexOptions(), PATH)
    assert made["time"].to_list() == list(range(1, 26))
    assert made["split"].to_list() == ["graph"] * 12 + ["train"] * 9 + ["validation"] * 2 + ["test"] * 2  # floor(0.6 * 21)
    assert told == {"by": "user", "shares": [0.8, 0.9], "graph_share": 0.6}


@pytest.mark.parametrize(("n", "held_out"), [(9, 0), (10, 1), (19, 1), (20, 2), (29, 2), (30, 3)])
def test_shares_are_exact_where_floating_point_is_not(n: int, held_out: int) -> None:
    """(1 - 0.9) * 10 is 0.9999999999999998."""
    both = pl.concat([of_one_user(n), of_one_user(40).with_columns(user=pl.lit(1, pl.Int64))])
    made = splits(both)[:n]
    assert (made.count("validation"), made.count("test")) == (held_out, held_out)


@pytest.mark.parametrize(("share", "graph"), [(0.1, 1), (0.29, 2), (0.3, 3), (0.7, 7), (0.99, 9)])
def test_the_share_of_the_graph_is_rounded_down(share: float, graph: int) -> None:
    assert splits(of_one_user(12), "leave-last:1,1", share) == ["graph"] * graph + ["train"] * (10 - graph) + [
        "validation",
        "test",
    ]


@pytest.mark.parametrize("share", [1 / 3, 0.3333333333333333, 0.99999999])
def test_a_share_of_many_digits(share: float) -> None:
    """Its numerator times the number of interactions is beyond int64."""
    if share > 0.9999:  # as good as 1: nothing would be left
        with pytest.raises(InputError, match="the graph split is empty"):
            splits(of_one_user(5000), share=share)
    else:
        assert splits(of_one_user(5000), share=share).count("graph") == 1333  # of 4000


def test_borders_of_many_digits() -> None:
    """5000 times the numerator of the first is beyond uint32, in which polars counts rows."""
    made = splits(of_one_user(5000), "user:0.899999,0.949999")
    assert (made.count("validation"), made.count("test")) == (250, 250)


def test_what_is_told_at_one_time_is_on_one_side_of_the_graphs_border() -> None:
    """Of eight training interactions six would be graph, but the fourth to seventh have one time."""
    interactions = frame([0] * 10, list(range(10)), [1, 2, 3, 4, 4, 4, 4, 5, 6, 7])
    assert splits(interactions, share=0.75) == ["graph"] * 3 + ["train"] * 5 + ["validation", "test"]


def test_ties_are_broken_by_item_and_users_do_not_mix() -> None:
    made, _ = assign(
        frame([1, 0, 1, 0] * 2, [5, 7, 4, 6, 1, 2, 3, 0], [1] * 4 + [0, 2, 2, 0], ["train"] * 6 + ["test", "validation"]),
        IndexOptions(columns=Columns(split="fold"), graph_share=0.5),
        PATH,
    )
    assert made.select("user", "item").rows() == [(0, 0), (0, 6), (0, 7), (0, 2), (1, 1), (1, 4), (1, 5), (1, 3)]
    assert made["split"].to_list() == ["validation", "train", "train", "train", "graph", "train", "train", "test"]


def test_global_borders_part_all_users_at_the_same_times() -> None:
    rng = np.random.default_rng(0)
    users, times = rng.integers(0, 9, 200).tolist(), rng.integers(0, 60, 200).tolist()
    made, told = assign(frame(users, list(range(200)), times), IndexOptions(split="time:0.7,0.85"), PATH)
    validation, test = told["borders"]
    assert (validation, test) == (sorted(times)[140], sorted(times)[170])
    for time, split in made.select("time", "split").rows():
        assert {"graph": 0, "train": 0, "validation": 1, "test": 2}[split] == (time >= validation) + (time >= test)
    assert told == {"by": "time", "shares": [0.7, 0.85], "borders": [validation, test], "graph_share": 0.6}


def test_leave_last() -> None:
    both = pl.concat([of_one_user(8), of_one_user(3).with_columns(user=pl.lit(1, pl.Int64))])
    made, told = assign(both, IndexOptions(split="leave-last:2,1"), PATH)
    assert made["split"].to_list()[:8] == ["graph"] * 3 + ["train"] * 2 + ["validation"] * 2 + ["test"]
    assert made["split"].to_list()[8:] == ["graph"] + ["train"] * 2, "nothing would be left to train on"
    assert told == {"by": "leave-last", "counts": [2, 1], "graph_share": 0.6}


@pytest.mark.parametrize("rule", ["user:0.7,0.85", "time:0.7,0.85", "leave-last:2,3"])
def test_the_retriever_learns_of_a_user_only_what_is_visible_in_all_of_their_prompts(rule: str) -> None:
    rng = np.random.default_rng(1)
    n = 2000
    made, _ = assign(
        frame(*(rng.integers(0, high, n).tolist() for high in (50, 30, 25))), IndexOptions(split=rule, graph_share=0.5), PATH
    )
    assert len(made) == n and made["split"].null_count() == 0
    last = made.filter(pl.col("split") == "graph").group_by("user").agg(pl.col("time").max().alias("known"))
    first = made.filter(pl.col("split") != "graph").group_by("user").agg(pl.col("time").min().alias("asked"))
    joined = last.join(first, on="user")
    assert len(joined) > 40 and (joined["known"] < joined["asked"]).all()


def test_a_column_with_a_graph_is_taken_as_it_is() -> None:
    rows = frame([0] * 5, [0, 1, 2, 3, 0], [5, 1, 2, 3, 6], ["graph", "train", "validation", "test", "test"])
    made, told = assign(rows, IndexOptions(columns=Columns(split="fold")), PATH)
    assert made["split"].to_list() == ["train", "validation", "test", "graph", "test"]
    assert told == {"by": "column", "column": "fold", "graph_share": None}


@pytest.mark.parametrize("later", [6, 5])
def test_a_graph_that_knows_an_answer_is_refused(later: int) -> None:
    """The user's item stands in `train` at 5, and in `graph` at 6 or at 5."""
    rows = frame([0] * 4, [0, 0, 2, 3], [5, later, 2, 3], ["train", "graph", "validation", "test"])
    with pytest.raises(InputError, match=r"ratings.csv: 1 interactions of the graph split .* would know what the model is asked"):
        assign(rows, IndexOptions(columns=Columns(split="fold")), PATH)


@pytest.mark.parametrize(
    "rule",
    [
        "",
        "user",
        "user:0.8",
        "user:0.9,0.8",
        "user:0.8,0.8",
        "user:0,0.5",
        "user:0.5,1",
        "user:0.8,0.9,0.95",
        "user:1/0,0.5",
        "user:nan,0.5",
        "time:0.9,0.1",
        "time:a,b",
        "leave-last:0,1",
        "leave-last:1,1001",
        "leave-last:1,1e999999999",
        "user: 0.1,0.2",
        "leave-last:1,0.5",
        "leave-last:1",
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
            frame([0] * 10, list(range(10)), [1] * 8 + [2, 3]),
            IndexOptions(),
            "the graph split is empty: no user has training interactions at two times, or --graph-share is too small",
        ),
        (of_one_user(10), IndexOptions(graph_share=0.1), "the graph split is empty: no user has training"),
        (
            frame([0] * 3, [0, 1, 2], [0, 1, 2], ["train", "train", "test"]),
            IndexOptions(columns=Columns(split="fold")),
            "the validation split is empty: no interaction has it in the column 'fold'",
        ),
        (
            frame([0] * 3, [0, 1, 2], [0, 1, 2], ["graph", "validation", "test"]),
            IndexOptions(columns=Columns(split="fold")),
            "the train split is empty: no interaction has it in the column 'fold'",
        ),
    ],
)
def test_an_empty_split_is_named(interactions: pl.DataFrame, options: IndexOptions, message: str) -> None:
    with pytest.raises(InputError) as caught:
        assign(interactions, options, PATH)
    assert str(caught.value).startswith(f"ratings.csv: {message}")
