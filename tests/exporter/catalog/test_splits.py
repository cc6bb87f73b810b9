import polars as pl

from rexit.exporter.catalog.splits import assign


def frame(user: list[int], item: list[int], time: list[int]) -> pl.DataFrame:
    return pl.DataFrame({"user": user, "item": item, "time": time})


def test_the_last_tenth_tests_and_the_tenth_before_validates() -> None:
    made = assign(frame([0] * 25, list(range(25)), list(range(25, 0, -1))))
    assert made["time"].to_list() == list(range(1, 26))
    assert made["split"].to_list() == ["train"] * 21 + ["validation"] * 2 + ["test"] * 2


def test_a_user_with_few_interactions_only_trains() -> None:
    assert set(assign(frame([0] * 9, list(range(9)), [1] * 9))["split"]) == {"train"}
    assert assign(frame([0] * 10, list(range(10)), [1] * 10))["split"].to_list() == ["train"] * 8 + ["validation", "test"]


def test_ties_are_broken_by_item_and_users_do_not_mix() -> None:
    made = assign(frame([1, 0, 1, 0], [5, 7, 4, 6], [1, 1, 1, 1]))
    assert made.select("user", "item").rows() == [(0, 6), (0, 7), (1, 4), (1, 5)]
