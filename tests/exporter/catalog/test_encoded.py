"""Columns of vectors: how they are read, what is stored, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from rexit.errors import InputError
from rexit.exporter.catalog.source_tables import column_of, holds_vectors, read_entities, vector_rows

UNIT = [[0.6, 0.8], [0.0, 0.0], [0.0, 1.0]]


def read(path: Path) -> pl.DataFrame:
    return read_entities(path, "item_id")


@pytest.mark.parametrize(
    "kind", [pl.List(pl.Float32), pl.List(pl.Float64), pl.Array(pl.Float32, 2), pl.Array(pl.Float16, 2)], ids=str
)
def test_lists_of_floats_in_parquet(tmp_path: Path, kind: pl.DataType) -> None:
    path = tmp_path / "i.parquet"
    pl.DataFrame({"item_id": [3, 1, 2], "v": pl.Series([[3, 4], None, [0, 0.5]], dtype=kind)}).write_parquet(path)
    frame = read(path)
    assert holds_vectors(frame["v"]) and frame["v"].to_list()[1] is None
    unit_rows = vector_rows(frame["v"], frame["id"])
    assert unit_rows.dtype == np.float16 and unit_rows.shape == (3, 2)
    np.testing.assert_allclose(unit_rows, UNIT, atol=1e-3)


@pytest.mark.parametrize("name, tab", [("i.csv", ","), ("i.item", "\t")])
def test_float_seq_in_text(tmp_path: Path, name: str, tab: str) -> None:
    """As RecBole's atomic files have it; an empty cell is no vector."""
    lines = ["item_id:token,title:token_seq,v:float_seq", "3,a b,3e0  4", "1,c,", "2,d, 0 .5 "]
    (tmp_path / name).write_text("\n".join(lines).replace(",", tab))
    frame = read(tmp_path / name)
    assert frame["title"].to_list() == ["a b", "c", "d"]
    np.testing.assert_allclose(vector_rows(frame["v"], frame["id"]), UNIT, atol=1e-3)


def test_lists_of_other_things_are_texts(tmp_path: Path) -> None:
    pl.DataFrame({"item_id": [1], "tags": [["a", "b"]], "years": [[1, 2]]}).write_parquet(tmp_path / "i.parquet")
    frame = read(tmp_path / "i.parquet")
    assert frame.row(0) == (1, "a, b", "1, 2") and not holds_vectors(frame["tags"])


def test_large_and_small_numbers_have_a_direction() -> None:
    """float16 holds neither; a vector of zeros stays one."""
    column = pl.Series("v", [[3e30, 4e30], [3e-30, 4e-30], [0.0, 0.0], []], dtype=pl.List(pl.Float32))
    unit_rows = vector_rows(column, pl.Series([1, 2, 3, 4]))
    np.testing.assert_allclose(unit_rows, [[0.6, 0.8], [0.6, 0.8], [0, 0], [0, 0]], atol=1e-3)


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        ([[1.0, 2.0], None, [1.0]], "the items file: column 'v': item 'c' has 1 numbers, item 'a' has 2"),
        ([None, [1.0, float("nan")], None], "the items file: column 'v': item 'b' has a number that is not finite"),
        ([[1.0], [2.0], [float("inf")]], "the items file: column 'v': item 'c' has a number that is not finite"),
        ([[1.0], [None], [1.0]], "the items file: column 'v': item 'b' has a number that is not finite"),
        ([None, [], None], "the items file: column 'v': no item has a vector, expected at least one"),
        ([[0.0] * 65537, None, None], "the items file: column 'v': item 'a' has 65537 numbers, expected 1 to 65536"),
    ],
)
def test_bad_vectors_are_named(vectors: list[list[float] | None], message: str) -> None:
    with pytest.raises(InputError) as caught:
        vector_rows(pl.Series("v", vectors, dtype=pl.List(pl.Float32)), pl.Series(["a", "b", "c"]))
    assert str(caught.value) == message


def test_a_number_that_float32_has_not_is_not_finite(tmp_path: Path) -> None:
    pl.DataFrame({"item_id": [1], "v": [[1e300]]}).write_parquet(tmp_path / "i.parquet")
    frame = read(tmp_path / "i.parquet")
    with pytest.raises(InputError, match="item 1 has a number that is not finite"):
        vector_rows(frame["v"], frame["id"])


def test_a_column_of_the_wrong_kind() -> None:
    frame = pl.DataFrame({"id": [1], "title": ["a"], "v": [[1.0]]})
    assert column_of(frame, "title", "item").to_list() == ["a"] and column_of(frame, "v", "item", vectors=True).len() == 1
    with pytest.raises(InputError, match="the items file has no column 'w', which prompts name; it has: title, v"):
        column_of(frame, "w", "item")
    with pytest.raises(InputError, match="the items file: column 'title' holds texts, the template reads vectors of that name"):
        column_of(frame, "title", "item", vectors=True)
    with pytest.raises(InputError, match="the items file: column 'v' holds vectors, the template reads texts of that name"):
        column_of(frame, "v", "item")
