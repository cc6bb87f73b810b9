"""examples/scientific: tables from a zip of two users, what a cross-encoder reads, and a table's figures by hand."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from builders.data import ratings
from rexit.data.slates import Slate, cut
from rexit.exporter.index import build_catalog
from rexit.exporter.options import Columns, IndexOptions, LightGCNOptions
from rexit.format.candidates import Candidates
from running.scripts import scripts_of

scripts = scripts_of("examples/scientific")
FOLDER = Path(__file__).parents[2] / "examples" / "scientific"
ITEMS = {
    str(n): {"title": f"Bolt {n}", "description": "Steel.<br> Long", "brand": "Acme", "categories": "Parts,Bolts"}
    for n in range(12)
}


@pytest.mark.medium
def test_tables_of_the_zip(tmp_path: Path) -> None:
    archive = tmp_path / "scientific.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("Scientific.item.json", json.dumps(ITEMS))
        file.writestr("Scientific.inter.json", json.dumps({"0": [3, 1, 2], "1": [0, 3]}))
    command = [sys.executable, FOLDER / "prepare.py", tmp_path / "out", "--from"]
    subprocess.run([*command, archive], check=True)
    items = pl.read_csv(tmp_path / "out" / "items.csv")
    text = "Bolt 2 Bolts. Acme. Steel. <br> Long"
    assert items.row(2) == (2, "Bolt 2", "Bolts", "Acme. Steel. <br> Long", text) and len(items) == 12
    purchases = pl.read_csv(tmp_path / "out" / "purchases.csv")
    assert purchases.rows() == [(0, 3, 0), (0, 1, 1), (0, 2, 2), (1, 0, 1), (1, 3, 2)], "the last ones are at one place"
    archive.write_text("no zip")
    refused = subprocess.run([*command, archive], capture_output=True, text=True, check=False)
    assert refused.returncode == 1 and refused.stderr.count("\n") == 1 and "no zip with Scientific.item.json" in refused.stderr


def test_a_new_product_goes_to_the_last_buyer_of_its_nearest_neighbour() -> None:
    import new_product

    vectors = [[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]
    items = pl.DataFrame({"item_id": [1, 2, 3], "title": ["A", "B", "C"], "text_vector": vectors})
    purchases = pl.DataFrame({"user_id": [7, 8, 9], "item_id": [2, 2, 3], "place": [0, 1, 2]})
    new = np.array([1.0, 0.0])
    assert new_product.nearest_buyer(items, purchases, new) == (8, "B"), "nobody bought A, which is nearer"


def test_pairs_have_the_latest_titles_and_the_labels_of_their_slate(tmp_path: Path) -> None:
    import pairs

    data = ratings.write(tmp_path, ratings.TEMPLATE.replace("inputs = []", 'inputs = ["gcn", "item.count"]'))
    options = IndexOptions(lightgcn=LightGCNOptions(dim=8, epochs=5), candidates=Candidates("retrieved", 12))
    catalog = ratings.index_files(data, options)
    rows = [(item, f"Film {item}", "Drama", " ".join(map(str, range(80)))) for item in range(1, ratings.ITEMS + 1)]
    pl.DataFrame(rows, ["item_id", "title", "category", "about"], orient="row").write_csv(data / "products.csv")

    def pairs_of(**served: Any) -> list[dict[str, Any]]:
        out = data / f"pairs-{len(served)}"
        arguments = {"catalog": data / "catalog", "items": data / "products.csv", "slates": 5, "served": None}
        pairs.main(argparse.Namespace(out=out, **{**arguments, **served}))
        return [json.loads(line) for line in (out / "slates.jsonl").read_text().splitlines()]

    written = pairs_of()
    assert [row["split"] for row in written] == ["train"] * 5 + ["validation"] * 5 + ["test"] * 5
    assert all("; " in row["query"] for row in written if row["split"] == "train"), "who bought nothing yet teaches nothing"
    first = cut(catalog, "test")[0]
    row = next(row for row in written if row["group"] == f"test-{first.user}")
    assert row["label"] == first.liked.tolist() and len(row["score.lookup"]) == 12
    assert row["candidates"][0] == f"Film {first.items[0]} Drama. {' '.join(map(str, range(56)))}"
    earlier = ratings.interactions().filter((pl.col("user_id") == first.user) & (pl.col("timestamp") < first.as_of))
    latest = earlier.sort("timestamp", "item_id")["item_id"].to_list()[::-1][:6]
    assert row["query"] == "; ".join(f"Film {item}" for item in latest)
    served = pairs_of(served=Candidates("uniform", 3))
    assert [row["group"] for row in served] == [row["group"] for row in written], "roles are those of the training file"
    liked = [row["label"] for row in served if row["split"] != "train" and any(row["label"])]
    assert len([1 for labels in liked if len(labels) == 4 * sum(labels)]) > len(liked) / 2, [len(labels) for labels in liked]


def test_withheld_products_are_ranked_for_their_buyers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import withheld

    monkeypatch.setattr(withheld, "PRODUCTS", 4)
    monkeypatch.setattr(withheld, "BESIDE", 9)
    data = ratings.write(tmp_path, ratings.TEMPLATE.replace("inputs = []", 'inputs = ["gcn", "text_vector"]'))
    purchases = ratings.interactions().rename({"timestamp": "place"}).select("user_id", "item_id", "place")
    purchases.write_csv(data / "purchases.csv")
    vectors = np.random.default_rng(0).normal(size=(ratings.ITEMS, 2)).tolist()
    ratings.items().with_columns(pl.Series("text_vector", vectors)).write_parquet(data / "items.parquet")
    withheld.main(argparse.Namespace(data=data, out=data / "out", catalog=None))
    left, gone = (pl.read_csv(data / "out" / f"{name}.csv") for name in ("purchases", "withheld"))
    assert len(left) + len(gone) == len(purchases) and gone["item_id"].n_unique() == 4
    assert not set(left["item_id"]) & set(gone["item_id"])

    columns = Columns(time="place")
    options = IndexOptions(
        columns=columns, implicit=True, lightgcn=LightGCNOptions(dim=8, epochs=5), candidates=Candidates("uniform", 3)
    )
    files = (data / "out" / "purchases.csv", data / "items.parquet", str(data / "tok"), data / "prompt.toml", data / "catalog")
    build_catalog(*files, options, users=data / "users.csv")
    withheld.main(argparse.Namespace(data=data, out=data / "out", catalog=data / "catalog"))
    printed = capsys.readouterr().out
    assert printed.count("| exit zero |") == printed.count("| text cosine |") == 2 and "Among the 10 retrieved: 0." in printed


def test_a_table_has_gains_over_users_and_groups_by_likes() -> None:
    import table

    slates = [Slate(n, (1, 2, 3), 0, np.array([True, False, False])) for n in range(3)]
    best, worst = np.tile([3.0, 2.0, 1.0], 3), np.tile([1.0, 2.0, 3.0], 3)
    rows = table.table({"exit zero": worst, "model": best}, slates, np.array([0, 3, 3]), "exit zero")
    zero, model = rows
    assert zero["ndcg@10"] == pytest.approx(0.5) and zero["gain"] == zero["low"] == zero["high"] == 0
    assert model["ndcg@10"] == model["user auc"] == 1 and model["gain"] == model["low"] == model["high"] == pytest.approx(0.5)
    assert list(model["by likes"].values()) == [1, 1, None, None] and list(model["by likes"]) == [
        "0 (1)",
        "1-4 (2)",
        "5-19 (0)",
        "20+ (0)",
    ]


def test_a_model_with_exit_zero_is_weighed_by_the_other_users() -> None:
    import table

    def answers(opposed: int) -> tuple[list[Slate], np.ndarray]:
        """Ten users whom a model ranks right but for one, whose like it ranks last."""
        slates = [Slate(n, (1, 2, 3), 0, np.array([True, False, False])) for n in range(10)]
        return slates, np.concatenate([[1.0, 2.0, 3.0] if n == opposed else [3.0, 2.0, 1.0] for n in range(10)])

    for opposed in (0, 9):
        slates, alone = answers(opposed)
        both = table.with_exit_zero(np.zeros(30), alone, slates).reshape(10, 3)
        assert (both.argmax(1) == [2 if n == opposed else 0 for n in range(10)]).all(), "nobody's own label is read"
