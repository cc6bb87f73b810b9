"""How interactions are split, and what the catalog says of it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import polars as pl
import pytest

from builders.data import ratings
from rexit.data.slates import cut
from rexit.exporter.options import LightGCNOptions
from rexit.format.bundle import Catalog
from rexit.format.bundle.catalog import SPLITS
from running.command import Run


def test_the_catalog_says_how_it_was_split_and_what_trained_the_retriever(run: Run, data: Path) -> None:
    code, out, _ = run("--json", "--seed", "3", snapshots=3, negatives=2, learning_rate=0.01)
    info = Catalog.open(data / "catalog").info
    assert code == 0 and json.loads(out)["split"] == info["split"]
    assert info["split"] == {"by": "user", "shares": [0.8, 0.9]}
    assert info["order"] == {"by": "time", "first": 100, "last": ratings.LATE + 19}
    assert info["label"] == {"positive_at": 4.0}
    assert Catalog.open(data / "catalog").snapshots["users"].shape == (2, ratings.USERS, 8)
    chosen = LightGCNOptions(dim=8, epochs=5, learning_rate=0.01, negatives=2, seed=3, snapshots=3)
    likes = Catalog.open(data / "catalog").split("train").liked.sum()
    assert info["lightgcn"] == {"likes": likes, **asdict(chosen)}


def parts(data: Path) -> dict[str, pl.DataFrame]:
    return {name: pl.read_parquet(data / f"catalog/splits/{name}.parquet") for name in SPLITS}


@pytest.mark.parametrize("order", ["file", "random"])
def test_data_without_times(run: Run, data: Path, order: str) -> None:
    rated = pl.read_csv(data / "ratings.csv").drop("timestamp")
    rated.write_csv(data / "ratings.csv")
    assert run("--order", order, "--seed", "7")[0] == 0
    info, frames = Catalog.open(data / "catalog").info, parts(data)
    places = {"first": 0, "last": len(rated) - 1}
    assert "time" not in info["columns"]
    assert info["order"] == {"by": order, **places, **({} if order == "file" else {"seed": 7})}
    whole = pl.concat(list(frames.values())).sort("time")
    assert whole["time"].to_list() == list(range(len(rated)))
    assert (whole["item"].to_list() == rated["item_id"].to_list()) == (order == "file")


def test_the_catalog_records_the_unit_of_its_times(run: Run, data: Path) -> None:
    """A request may then say its moment as a date."""
    begin, rated = 1_700_000_000, ratings.interactions()
    seconds = rated.with_columns(pl.col("timestamp") + begin)
    seconds.write_csv(data / "ratings.csv")
    code, out, _ = run()
    assert code == 0 and "Times in seconds: 2023-11-14T22:15:00Z to 2023-11-15T01:00:19Z" in " ".join(out.split())
    order, splits = Catalog.open(data / "catalog").info["order"], parts(data)
    expected = {"unit": "seconds", "first": begin + 100, "last": begin + ratings.LATE + 19}
    assert order == {"by": "time", **expected}
    dates = seconds.with_columns(pl.from_epoch("timestamp").dt.strftime("%Y-%m-%dT%H:%M:%SZ"))
    dates.write_csv(data / "ratings.csv")
    assert run()[0] == 0
    assert Catalog.open(data / "catalog").info["order"] == order
    assert all(parts(data)[name].equals(splits[name]) for name in splits)
    rated.write_csv(data / "ratings.csv")
    assert f"Times as whole numbers of no known unit: 100 to {ratings.LATE + 19}" in " ".join(run()[1].split())


def test_rows_that_stand_twice_change_nothing(run: Run, data: Path) -> None:
    """Else one of them would be trained on and the other tested."""
    assert run()[0] == 0
    once, digest = parts(data), Catalog.open(data / "catalog").files
    rated = ratings.interactions()
    pl.concat([rated, rated.sample(100, seed=0)]).write_csv(data / "ratings.csv")
    code, out, _ = run()
    assert code == 0 and "100 rows repeat an interaction and were left out." in out
    catalog, frames = Catalog.open(data / "catalog"), parts(data)
    assert all(frames[name].equals(once[name]) for name in SPLITS) and catalog.files == digest
    assert catalog.info["repeats"] == {"dropped": 100}


def test_implicit_feedback(run: Run, data: Path) -> None:
    rated = pl.read_csv(data / "ratings.csv").drop("rating")
    rated.write_csv(data / "ratings.csv")
    assert run("--implicit", "--candidates", "uniform:3")[0] == 0
    catalog, frames = Catalog.open(data / "catalog"), parts(data)
    assert "rating" not in catalog.info["columns"]
    assert catalog.info["label"] == {"implicit": True}
    assert catalog.info["candidates"] == {"kind": "uniform", "count": 3, "seed": 0}
    assert catalog.info["counts"]["interactions"] == len(rated)
    assert all(len(frames[name].filter(~pl.col("liked"))) == 3 * frames[name]["liked"].sum() for name in SPLITS)
    assert catalog.user_table["history_liked"].all(), "sampled negatives are in no history"
    history: set[tuple[object, ...]] = set()
    for part in frames.values():
        likes, sampled = (set(part.filter(liked=liked).select("user", "item").iter_rows()) for liked in (True, False))
        history |= likes
        assert not history & sampled
    assert cut(catalog, "train")
