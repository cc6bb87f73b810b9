"""Labels of objectives: what is 1, 0 or unknown, by column and by threshold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from rexit.errors import InputError
from rexit.exporter.catalog.negatives import with_negatives
from rexit.exporter.catalog.objectives import label_column
from rexit.exporter.options import ObjectiveRule

PATH = Path("ratings.csv")
COLUMN, THRESHOLD = ObjectiveRule("like", "like"), ObjectiveRule.parse("like=rating>=4.5")


@pytest.mark.parametrize(
    ("rule", "cells", "labels"),
    [
        (COLUMN, ["1", "0", None, " ", "1.0", " 0 "], [True, False, None, None, True, False]),
        (COLUMN, [1, 0, None], [True, False, None]),
        (COLUMN, [1.0, 0.0, float("nan")], [True, False, None]),
        (COLUMN, [True, False, None], [True, False, None]),
        (THRESHOLD, ["4.5", "4", None, "nan", "5"], [True, False, None, None, True]),
        (THRESHOLD, [5, 4, None], [True, False, None]),
    ],
)
def test_cells_are_yes_no_or_unknown(rule: ObjectiveRule, cells: list[Any], labels: list[bool | None]) -> None:
    assert label_column(pl.Series("like", cells), rule, PATH).to_list() == labels


@pytest.mark.parametrize(
    ("rule", "cells", "message"),
    [
        (COLUMN, ["1", "2"], "row 2: 'like' is '2', expected 0, 1 or nothing, for objective 'like'"),
        (COLUMN, ["1", "yes"], "row 2: 'like' is 'yes', expected 0, 1 or nothing"),
        (COLUMN, [0.5, 1.0], "row 1: 'like' is 0.5, expected 0, 1 or nothing"),
        (THRESHOLD, ["4", "five"], "row 2: 'like' is 'five', expected a number or nothing"),
        (THRESHOLD, ["4", "inf"], "row 2: 'like' is 'inf', expected a number or nothing"),
        (COLUMN, [[1], [0]], "column 'like' holds List"),
    ],
)
def test_other_cells_are_refused(rule: ObjectiveRule, cells: list[Any], message: str) -> None:
    with pytest.raises(InputError) as refused:
        label_column(pl.Series("like", cells), rule, PATH)
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_sampled_items_have_no_label_of_1() -> None:
    rows = pl.DataFrame({"user": [0, 0], "item": [0, 1], "time": [1, 2], "liked": [True, True], "split": ["train", "train"]})
    labels = pl.Series("objective.buy", [True, None])
    sampled = with_negatives(rows.with_columns(labels), 6, 2, 0, PATH)
    assert sampled.filter("liked")["objective.buy"].to_list() == [True, None]
    assert sampled.filter(~pl.col("liked"))["objective.buy"].to_list() == [False] * 4
