"""`rexit index` as it is called: what it writes and prints."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from builders.data import ratings
from rexit.exporter.retriever import neighbours as lists
from rexit.exporter.retriever.neighbours import Lists, similar_users
from rexit.format.bundle import Catalog
from running.command import Run
from running.indexing import edit


def test_it_prints_what_it_made(run: Run) -> None:
    code, out, err = run(epochs=1)
    assert (code, err) == (0, "")
    assert "Retriever on the validation split (1 epoch)\n" in out
    for word in ("users", "items", "interactions", "prefix", "candidate", "LightGCN", "popularity", "recall@20"):
        assert word in out
    assert "{similar_liked:6}: " in out and "item.title of item " in out, "what makes the longest prompt long"


def test_an_id_that_looks_like_markup_is_printed_as_it_is(run: Run, data: Path) -> None:
    """The item with the longest title stands in the table of the longest prompt."""
    edit(data / "items.csv", "\n7,Film 7,", "\n[/b],Film 7 and a longer title than all the others,")
    (data / "ratings.csv").write_text((data / "ratings.csv").read_text().replace(",7,", ",[/b],"))
    code, out, err = run()
    assert (code, err) == (0, "") and "item.title of item [/b]: " in out


def test_json_is_one_document_and_the_catalog_says_the_same(run: Run, data: Path) -> None:
    code, out, _ = run("--json")
    printed, info = json.loads(out), Catalog.open(data / "catalog").info
    assert code == 0
    assert printed["prompt"] == {key: info["prompt"][key] for key in ("max_prefix_tokens", "max_candidate_tokens")}
    assert (
        printed["counts"] == info["counts"] and printed["retrieval"] == info["retrieval"] and printed["splits"] == info["splits"]
    )
    assert info["counts"] | {"pieces": 0} == {"users": 24, "items": 40, "interactions": 480, "likes": 234, "pieces": 0}
    assert 0 < info["retrieval"]["recall@20"] <= 1 and 0 < info["retrieval"]["popularity_recall@20"] <= 1
    assert {name: split["rows"] for name, split in info["splits"].items()} == {"train": 384, "validation": 48, "test": 48}
    assert info["label"] == {"positive_at": 4.0} and info["ids"] == {"user": "int64", "item": "int64"}
    assert info["columns"] == {"user": "user_id", "item": "item_id", "rating": "rating", "time": "timestamp"}


def test_every_tensor_is_as_the_format_says(run: Run, data: Path) -> None:
    run(neighbours=3)
    catalog = Catalog.open(data / "catalog")
    shapes = {
        name: (str(tensor.dtype), tensor.shape)
        for table in (catalog.user_table, catalog.item_table)
        for name, tensor in table.items()
    }
    assert shapes == {
        "ids": ("int64", (40,)),
        "embeddings": ("float16", (40, 8)),
        "fold_in": ("float16", (40, 8)),
        "similar": ("int32", (24, 3)),
        "history_offsets": ("int64", (25,)),
        "history_items": ("int32", (480,)),
        "history_times": ("int64", (480,)),
        "history_liked": ("uint8", (480,)),
        "history_by_item": ("int32", (480,)),
        "rating_offsets": ("int64", (41,)),
        "rating_times": ("int64", (480,)),
        "rating_likes": ("int32", (480,)),
        "field.job": ("int32", (24,)),
        "field.title": ("int32", (40,)),
        "field. title": ("int32", (40,)),
        "field. year": ("int32", (40,)),
    }
    pieces = catalog.piece_table
    assert {name: str(tensor.dtype) for name, tensor in pieces.items()} == {"offsets": "int64", "tokens": "int32"}
    assert len(pieces["offsets"]) == catalog.info["counts"]["pieces"] + 1 and pieces["offsets"][-1] == len(pieces["tokens"])


def test_string_ids_and_other_formats_give_the_same_catalog(run: Run, data: Path) -> None:
    """RecBole's headers, Parquet, string ids and other column names: all at once, rows in order of the ids' bytes."""
    rated = pl.read_csv(data / "ratings.csv").with_columns(user_id=pl.format("ü{}", pl.col("user_id") + 100))
    rated.rename({"rating": "stars"}).write_parquet(data / "ratings.parquet")
    pl.read_csv(data / "items.csv").rename({"item_id": "item_id:token", "title": "title:token_seq"}).write_csv(
        data / "films.item", separator="\t"
    )
    pl.read_csv(data / "users.csv").with_columns(user_id=pl.format("ü{}", pl.col("user_id") + 100)).write_csv(data / "users.csv")
    code, _, err = run("--interactions", "ratings.parquet", "--items", "films.item", "--column", "rating=stars")
    assert (code, err) == (0, "")
    catalog = Catalog.open(data / "catalog")
    assert catalog.info["ids"] == {"user": "string", "item": "int64"}
    assert [catalog.users.id(row) for row in (0, 23)] == ["ü101", "ü124"]
    assert catalog.split("test").items.tolist()


def test_users_and_items_without_interactions_have_rows(run: Run, data: Path) -> None:
    with open(data / "users.csv", "a") as file:
        file.write("77,pilot\n")
    with open(data / "items.csv", "a") as file:
        file.write("99,Unseen,2001\n")
    assert run()[0] == 0
    catalog = Catalog.open(data / "catalog")
    row = catalog.users.row(77)
    assert row == 24 and catalog.items.row(99) == 40
    similar = catalog.user_table["similar"]
    assert not catalog.user_table["embeddings"][row].any()
    assert similar.shape == (25, 20) and (similar[row] == row).all(), "without interactions: no similar users"
    assert row not in similar[:row], "and similar to no user"


def test_a_validation_split_without_a_like(run: Run, data: Path) -> None:
    late = pl.col("timestamp") >= 260
    ratings.interactions().with_columns(rating=pl.when(late).then(1).otherwise("rating")).write_csv(data / "ratings.csv")
    code, out, _ = run()
    assert code == 0 and "No user has a like" in out
    assert Catalog.open(data / "catalog").info["retrieval"]["recall@20"] is None


def test_many_users_are_in_lists(run: Run, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else is new of them, but that their similar users are what a search in the lists finds."""
    run("--out", "few")
    monkeypatch.setattr(lists, "EXACT", 20)
    monkeypatch.setattr(lists, "PROBES", 2)
    for name in ("catalog", "again"):
        code, _, err = run("--out", name)
        assert (code, err) == (0, "")
    few, many = Catalog.open(data / "few"), Catalog.open(data / "catalog")
    assert (data / "catalog/users.safetensors").read_bytes() == (data / "again/users.safetensors").read_bytes()
    assert few.probes is None
    assert many.probes == 2
    assert (many.user_embeddings == few.user_embeddings).all() and (few.user_embeddings == few.user_table["embeddings"]).all()
    own, expected = ("embeddings", "similar", "centres", "list_offsets", "list_users"), dict(few.user_table)
    assert {name: table.tolist() for name, table in many.user_table.items() if name not in own} == {
        name: table.tolist() for name, table in expected.items() if name not in own
    }
    users, fold_in = many.user_table, many.item_table["fold_in"]
    expected_similar = similar_users(many.user_embeddings, fold_in, users, users["similar"].shape[1], Lists.of(many))
    assert (users["similar"] == expected_similar).all() and (expected_similar != few.user_table["similar"]).any()
    assert not np.array_equal(users["list_users"], np.arange(24))
