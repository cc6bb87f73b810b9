"""Weights of likes: what counts more is learned more, 1 changes nothing, and what is no weight is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from builders.data import ratings
from rexit.errors import InputError
from rexit.exporter.catalog.interactions import read_interactions
from rexit.exporter.options import Columns, IndexOptions, LightGCNOptions
from rexit.exporter.zero import Logistic, _pairs
from rexit.format.bundle import Catalog
from rexit.progress import silent
from running.command import Run

OPTIONS = IndexOptions(neighbours=5, lightgcn=LightGCNOptions(dim=8, epochs=5))
WEIGHTED = IndexOptions(neighbours=5, lightgcn=LightGCNOptions(dim=8, epochs=5), columns=Columns(weight="plays"))


def write(folder: Path, weight: pl.Expr) -> Path:
    ratings.write(folder, ratings.TEMPLATE.replace("inputs = []", 'inputs = ["gcn", "item.count"]'))
    ratings.interactions().with_columns(plays=weight).write_csv(folder / "ratings.csv")
    return folder


def test_weights_of_one_are_no_weights_to_the_bit(tmp_path: Path) -> None:
    plain, ones = write(tmp_path / "plain", pl.lit(1)), write(tmp_path / "ones", pl.lit(1))
    expected, weighted = ratings.index_files(plain, OPTIONS), ratings.index_files(ones, WEIGHTED)
    assert weighted.files == expected.files and weighted.info["snapshots"] == expected.info["snapshots"]


def test_heavy_likes_are_nearer_in_the_retriever_and_likelier_in_exit_zero(tmp_path: Path) -> None:
    """Likes of items up to 10 count a hundred times as much as others."""
    heavy = pl.col("item_id") <= 10
    data = write(tmp_path, pl.when(heavy).then(100).otherwise(1))
    products = []
    for options in (OPTIONS, WEIGHTED):
        catalog = ratings.index_files(data, options)
        users, items = catalog.user_embeddings.astype(np.float64), catalog.item_table["embeddings"].astype(np.float64)
        train = catalog.split("train")
        chosen = train.liked & (train.items < 10)
        products.append((users[train.users[chosen]] * items[train.items[chosen]]).sum(1).mean())
    assert products[1] > products[0]
    assert train.weights is not None and set(train.weights[train.items < 10].tolist()) == {100.0}
    pairs, _ = _pairs(catalog, silent)
    assert pairs.weights is not None and set(pairs.weights[~pairs.liked].tolist()) == {1.0}, "a dislike is not heavier"
    assert pairs.weights[pairs.liked].mean() == pytest.approx(1) and len(set(pairs.weights[pairs.liked].tolist())) == 2
    numbers, liked = np.array([[0.0], [0.0], [1.0], [1.0]], np.float32), np.array([True, False, True, False])
    counts, weights = np.zeros(1, bool), np.array([9, 1, 1, 1], np.float32)
    even, uneven = (Logistic.fit(numbers, liked, counts, w).log_odds(numbers) for w in (None, weights))
    assert np.allclose(even, 0, atol=1e-6) and uneven[0] > 0.5 and uneven[0] > uneven[2] + 0.5


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (["1", "-2"], "row 2: 'plays' is '-2', expected a weight of at least 0"),
        (["nan", "2"], "expected a finite number"),
        (["1", "many"], "expected a finite number"),
        (["", "2"], "expected a finite number"),
        (["1e39", "1"], "expected a weight of at least 0"),
        (["0", "0"], "every weight in column 'plays' is 0, expected one above 0"),
    ],
)
def test_what_is_no_weight_is_refused(tmp_path: Path, weights: list[str], message: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(
        "user_id,item_id,rating,timestamp,plays\n" + "".join(f"1,{n},{5 - 4 * n},3,{w}\n" for n, w in enumerate(weights))
    )
    with pytest.raises(InputError) as raised:
        read_interactions(path, WEIGHTED)
    assert message in str(raised.value)


def test_an_update_reads_no_weights(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It trains nothing."""
    ratings.index_files(write(tmp_path, pl.lit(2)), WEIGHTED)
    monkeypatch.chdir(tmp_path)
    pl.DataFrame({"user_id": [1], "item_id": [1], "rating": [5], "timestamp": [30_000]}).write_csv("new.csv")
    files = ["--interactions", "new.csv", "--tokenizer", "tok", "--template", "prompt.toml", "--out", "new"]
    code, _, err = run("index", "--from", "catalog", *files)
    assert code == 0, err
    assert Catalog.open(tmp_path / "new").split("train").weights is None


def test_a_template_that_asks_for_verdicts_is_warned_of_where_all_are_likes(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ratings.write(tmp_path))
    pl.read_csv("ratings.csv").drop("rating").write_csv("clicks.csv")
    files = [
        "--items",
        "items.csv",
        "--users",
        "users.csv",
        "--tokenizer",
        "tok",
        "--template",
        "prompt.toml",
        "--out",
        "catalog",
    ]
    code, _, err = run("index", "--interactions", "clicks.csv", "--implicit", "--candidates", "uniform:2", *files)
    assert code == 0, err
    names = "{user.like_rate}, {item.like_rate}, {similar_like_rate:5}, {nearest_like_rate:3}, {verdict}"
    assert f"warning: all interactions are likes, so {names} of prompt.toml tell nothing apart" in " ".join(err.split())
    assert "tell nothing apart" not in run("index", "--interactions", "ratings.csv", *files).err
