"""Exit zero reads columns of item vectors: what the judges keep, what a catalog holds, and new items known by text alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from builders.data import ratings
from rexit.data.slates import Slate
from rexit.errors import InputError
from rexit.exporter import zero as fit
from rexit.exporter.index import build_catalog
from rexit.exporter.prompt.builder import PromptBuilder, RowSlate
from rexit.exporter.zero import zero_log_odds
from rexit.format.bundle import Catalog

TASTE = np.array([[1.0, 0.2], [0.2, 1.0]])
WITHOUT = 11
"""An item without a vector."""
TEXT = [{"op": "mean_cosine", "column": "text"}, {"op": "max_cosine", "column": "text", "limit": 8}]


def vectors(ids: NDArray[np.int64]) -> list[list[float] | None]:
    """Even and odd items point two ways, a little differently each; any length."""
    rows = TASTE[ids % 2] + np.random.default_rng(0).normal(scale=0.1, size=(len(ids), 2))
    return [None if item == WITHOUT else row.tolist() for item, row in zip(ids.tolist(), rows, strict=True)]


def write_items(data: Path, name: str = "items.parquet", ids: range = range(1, ratings.ITEMS + 1), **columns: object) -> Path:
    rows = {"item_id": list(ids), "title": [f"Film {n}" for n in ids], "year": [1950 + n for n in ids]}
    pl.DataFrame({**rows, "text": vectors(np.array(ids)), **columns}).write_parquet(data / name)
    return data / name


def build(data: Path, place: Path, template: str) -> Catalog:
    (place / "prompt.toml").write_text(template)
    files = (data / "ratings.csv", data / "items.parquet", str(data / "tok"), place / "prompt.toml", place / "catalog")
    build_catalog(*files, ratings.options(), users=data / "users.csv")
    return Catalog.open(place / "catalog")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = ratings.write(tmp_path_factory.mktemp("vectors"))
    write_items(folder)
    return folder


@pytest.fixture(scope="module")
def catalog(data: Path) -> Catalog:
    return build(data, data, ratings.TEMPLATE.replace("[zero]\ninputs = []\n", ""))


def test_the_default_reads_the_prompt_s_numbers_and_all_columns_but_no_search_without_judges(catalog: Catalog) -> None:
    ops = [op["op"] for op in catalog.numbers]
    assert catalog.numbers[-2:] == TEXT and "similar_like_rate" not in ops and ops.count("nearest_like_rate") == 2
    rows = catalog.item_table["vector.text"]
    assert rows.dtype == np.float16 and not rows[WITHOUT - 1].any()
    np.testing.assert_allclose(np.linalg.norm(np.delete(rows, WITHOUT - 1, 0).astype(float), axis=1), 1, atol=1e-3)


def test_a_template_that_says_what_is_read_is_followed(data: Path, tmp_path: Path) -> None:
    chosen = build(data, tmp_path, ratings.TEMPLATE.replace("inputs = []", 'inputs = ["text", "similar_like_rate:5"]'))
    assert chosen.numbers == [*TEXT, {"op": "similar_like_rate", "limit": 5}] and "choice" not in chosen.info["zero"]
    none = build(data, tmp_path, ratings.TEMPLATE.replace("inputs = []", 'inputs = ["item.count"]'))
    assert "vector.text" not in none.item_table, "nobody reads it"


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ('["title"]', "zero.inputs: unknown number 'title', known are: gcn, .* and columns of item vectors: text"),
        ('["look"]', r"items.parquet: no column 'look' \(.*prompt.toml: zero.inputs, whose numbers are gcn, "),
        ('["text:3"]', "'text:3': only similar_like_rate and nearest_like_rate take a limit"),
    ],
)
def test_an_unknown_number_is_named(data: Path, tmp_path: Path, inputs: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build(data, tmp_path, ratings.TEMPLATE.replace("inputs = []", f"inputs = {inputs}"))
    assert not (tmp_path / "catalog").exists()


def extended(data: Path, catalog: Catalog, out: Path, items: Path) -> Catalog:
    new = out / "new.csv"
    new.write_text("user_id,item_id,rating,timestamp\n1,2,5,20000\n")
    (out / "prompt.toml").write_text(ratings.TEMPLATE.replace("[zero]\ninputs = []\n", ""))
    build_catalog(new, items, str(data / "tok"), out / "prompt.toml", out / "newer", old=catalog.path)
    return Catalog.open(out / "newer")


def test_a_new_item_is_ranked_by_its_text_alone(data: Path, catalog: Catalog, tmp_path: Path) -> None:
    """Users who like even items get the new even one before the new odd one, which nobody has met either."""
    newer = extended(data, catalog, tmp_path, write_items(tmp_path, "new.parquet", range(100, 103)))
    assert newer.numbers == catalog.numbers and len(newer.items) == ratings.ITEMS + 3 and not newer.edited()
    builder, even = PromptBuilder(newer), 0
    for user in range(1, ratings.USERS + 1):
        numbers = builder.numbers(user, [100, 101])
        assert np.isfinite(numbers[:, [0, -2, -1]]).all(), "no like, but a text, and a product with those of its neighbours"
        (log_odds,) = zero_log_odds(newer, [Slate(user, (100, 101), None, np.array([True, False]))])
        assert np.isfinite(log_odds).all()
        even += int((log_odds[0] > log_odds[1]) == ((user - 1) % 2 == 1))
    assert even >= ratings.USERS - 3


def test_a_new_item_is_retrieved_by_its_text_and_placed_by_likes_once_there_are_any(
    data: Path, catalog: Catalog, tmp_path: Path
) -> None:
    newer = extended(
        data, catalog, tmp_path, write_items(tmp_path, "new.parquet", range(100, 103), text=[[1.0, 0.2], None, [0.2, 1.0]])
    )
    rows, likes = newer.items.rows([100, 101, 102]), newer.item_table["fold_in"]
    placed = newer.item_table["embeddings"][rows].astype(float)
    assert np.linalg.norm(placed, axis=1) == pytest.approx([1, 0, 1], abs=1e-3) and not likes[rows].any()
    even = newer.item_table["embeddings"][newer.items.rows(list(range(2, 31, 2)))].astype(float).mean(0)
    assert placed[0] @ even > placed[2] @ even, "beside those that its text is like"
    retrieved = next(PromptBuilder(newer).retrieve([RowSlate(newer.users.row(2), ())], len(newer.items)))
    assert {100, 102} <= set(newer.items.take(retrieved)) and 101 not in newer.items.take(retrieved)

    day = tmp_path / "day"
    day.mkdir()
    (day / "new.csv").write_text("user_id,item_id,rating,timestamp\n" + "".join(f"{user},100,5,21000\n" for user in range(1, 9)))
    build_catalog(day / "new.csv", None, str(data / "tok"), tmp_path / "prompt.toml", day / "later", old=newer.path)
    later = Catalog.open(day / "later")
    [row] = later.items.rows([100])
    assert later.item_table["fold_in"][row].any() and (later.item_table["embeddings"][row] != placed[0]).any()


def test_a_column_that_exit_zero_leaves_out_still_places_new_items(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_columns(_pairs: object, ops: list[dict[str, object]], _microseconds: object) -> tuple[list[int], list[object]]:
        return [n for n, op in enumerate(ops) if "column" not in op], []

    monkeypatch.setattr(fit, "_chosen_numbers", without_columns)
    catalog = build(data, tmp_path, ratings.TEMPLATE.replace("[zero]\ninputs = []\n", ""))
    assert not catalog.vector_columns
    newer = extended(data, catalog, tmp_path, write_items(tmp_path, "new.parquet", range(100, 103)))
    assert newer.item_table["embeddings"][newer.items.rows([100, 101, 102])].any(1).all()


def test_an_item_without_a_vector_has_no_cosine(catalog: Catalog) -> None:
    builder = PromptBuilder(catalog)
    assert np.isnan(builder.numbers(1, [WITHOUT])[:, -2:]).all()
    assert np.isnan(builder.numbers(None, [1, 2])[:, -2:]).all(), "nobody's likes"
    assert np.isnan(builder.numbers(None, [1], recent=[(WITHOUT, True), (3, False)])[:, -2:]).all()
    assert np.isfinite(builder.numbers(None, [1], recent=[(3, True)])[:, -2:]).all()


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ([[1.0, float("nan")], [1.0, 0.0]], "column 'text': item 100 has a number that is not finite"),
        ([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]], "column 'text': item 100 has 3 numbers, each of the catalog's has 2"),
        (["a", "b"], "column 'text' holds texts, the template reads vectors of that name"),
    ],
)
def test_bad_vectors_of_new_items_are_named(
    data: Path, catalog: Catalog, tmp_path: Path, column: list[object], message: str
) -> None:
    items = write_items(tmp_path, "new.parquet", range(100, 102), text=column)
    with pytest.raises(InputError, match=message):
        extended(data, catalog, tmp_path, items)
    assert not (tmp_path / "newer").exists()


def test_new_items_without_the_column_are_refused(data: Path, catalog: Catalog, tmp_path: Path) -> None:
    (tmp_path / "new-items.csv").write_text("item_id,title,year\n100,New,2000\n")
    with pytest.raises(InputError, match="the items file has no column 'text', which exit zero or a prompt reads"):
        extended(data, catalog, tmp_path, tmp_path / "new-items.csv")


def judged_pairs(numbers: NDArray[np.float32], logit: NDArray[np.float64]) -> fit._Pairs:
    rng, rows = np.random.default_rng(1), np.ones(len(numbers), np.bool_)
    liked = logit + rng.logistic(size=len(numbers)) > 0
    return fit._Pairs(numbers, np.repeat(np.arange(len(numbers) // 10), 10), liked, rows, rows, rows)


@pytest.mark.medium
def test_the_judges_leave_out_what_gains_less_than_it_costs() -> None:
    """A number that tells much stays; a search that tells little leaves, or one that takes long for what it tells."""
    ops = [{"op": "gcn"}, {"op": "item_count"}, {"op": "similar_like_rate", "limit": 3}, {"op": "similar_like_rate", "limit": 9}]
    numbers = np.random.default_rng(0).normal(size=(20_000, 4)).astype(np.float32)
    for weight, search, kept in ((0.1, 900, [0]), (2.0, 900, [0, 3]), (0.4, 30_000, [0])):
        pairs = judged_pairs(numbers, 2.0 * numbers[:, 0] + weight * numbers[:, 3])
        read, about = fit._chosen_numbers(pairs, ops, search)
        assert [column for column in read if column != 1] == kept and [entry["number"] for entry in about] == ops
        assert [entry["read"] for entry in about] == [column in read for column in range(4)]
    few = replace(
        pairs, **{name: getattr(pairs, name)[:100] for name in ("numbers", "users", "liked", "fits", "before", "judged")}
    )
    assert fit._chosen_numbers(few, ops, 900) == ([0, 1], []), "too few users to judge"
