"""Retrieved candidates: those that the look-up puts first as of each slate's moment, and what recall misses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from builders.data import ratings
from oracles.assembler import folded_in
from rexit.data.slates import cut, runs
from rexit.errors import InputError
from rexit.exporter.options import ExternalOptions, IndexOptions, LightGCNOptions
from rexit.exporter.zero import SIZE, _likes_and_others, _pairs
from rexit.format.bundle import Catalog
from rexit.format.bundle.catalog import SPLITS
from rexit.format.candidates import Candidates
from rexit.progress import silent

COUNT = 12
OPTIONS = IndexOptions(
    neighbours=5,
    lightgcn=LightGCNOptions(dim=8, epochs=5),
    split="user:0.6,0.8",
    candidates=Candidates("retrieved", COUNT),
)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    return ratings.index_files(ratings.write(tmp_path_factory.mktemp("data")), OPTIONS)


def best(catalog: Catalog, user: int, time: int, tables: tuple[Any, Any]) -> list[int]:
    """The N best items of a user, by the definition."""
    items, fold_in = tables
    begin, end = catalog.user_table["history_offsets"][user : user + 2]
    before = slice(begin, begin + int((catalog.user_table["history_times"][begin:end] < time).sum()))
    met, liked = catalog.user_table["history_items"][before], catalog.user_table["history_liked"][before] > 0
    products = items.astype(np.float64) @ folded_in(fold_in[met[liked]])
    order = [item for item in np.argsort(-products, kind="stable") if item not in met and items[item].any()]
    return sorted(map(int, order[:COUNT]))


@pytest.mark.parametrize("split", SPLITS)
def test_slates_are_the_best_items_of_their_moment(catalog: Catalog, split: str) -> None:
    rows, parts = runs(catalog, split, COUNT)
    own = (catalog.item_table["embeddings"], catalog.item_table["fold_in"])
    moments = set()
    for part in parts:
        user, time = int(rows.users[part.start]), int(rows.times[part.start])
        number = int((catalog.snapshots["begins"][user] <= time).sum()) - 1
        tables = own if split != "train" else tuple(catalog.snapshots[name][number] for name in ("items", "fold_in"))
        assert rows.items[part].tolist() == best(catalog, user, time, tables)
        moments.add((user, time))
    assert len(moments) == len(parts) > len(catalog.users) // 2


def test_liked_are_the_likes_of_the_part_and_recall_is_their_share(catalog: Catalog) -> None:
    recall = catalog.info["candidates"]["recall"]
    for split in ("validation", "test"):
        everything = catalog.split(split, missed=True)
        assert everything.missed is not None and everything.liked[everything.missed].all()
        likes = pl.DataFrame({"user": everything.users, "hit": ~everything.missed}).filter(everything.liked)
        rated = ratings.interactions().filter(pl.col("rating") >= 4).group_by("user_id").len()
        assert len(likes) < rated["len"].sum()
        assert recall[split] == pytest.approx(likes.group_by("user").agg(pl.col("hit").mean())["hit"].mean())
        assert all(len(slate.items) == COUNT for slate in cut(catalog, split))
    everything = catalog.split("train", missed=True)
    assert all(slate.liked.any() for slate in cut(catalog, "train"))
    assert all(slate.liked.any() for slate in (*cut(catalog, "train", 5), *cut(catalog, "validation", 5)))
    met = {name: catalog.split(name, missed=True) for name in SPLITS}
    liked = sum(int(part.liked.sum()) for part in met.values())
    assert liked == int(catalog.user_table["history_liked"].sum()), "each like is in its split once"


def test_exit_zero_is_fitted_on_likes_and_others_drawn_from_their_slates(catalog: Catalog) -> None:
    """Neighbours of a like in the order of rows would be others like it."""
    numbers = {**catalog.info["prompt"], "numbers": [{"op": "item_count"}]}
    own = replace(catalog, info={**catalog.info, "prompt": numbers})
    pairs, whole = _pairs(own, silent)
    assert whole and pairs.liked.mean() == pytest.approx(1 / SIZE, abs=0.05)
    assert not _pairs(own, silent, 10 * SIZE)[1]
    liked = np.zeros(100, np.bool_)
    liked[[3, 50]] = True
    rows = _likes_and_others(slice(0, 100), liked)
    assert len(rows) == 2 * SIZE and {3, 50} <= set(rows.tolist()) and np.ptp(np.setdiff1d(rows, [3, 50])) > 40


def test_embeddings_of_one_moment_have_slates_in_each_part_of_the_training(tmp_path: Path) -> None:
    data, rng = ratings.write(tmp_path), np.random.default_rng(0)
    tastes = np.arange(1, ratings.ITEMS + 1) % 2 * 2.0 - 1
    rows = np.column_stack([tastes, 0.1 * rng.normal(size=(ratings.ITEMS, 3))])
    pl.DataFrame({"item_id": range(1, ratings.ITEMS + 1), "v": rows.tolist()}).write_parquet(data / "vectors.parquet")
    external = ExternalOptions(data / "vectors.parquet")
    known = ratings.index_files(data, IndexOptions(external=external, split="user:0.6,0.8", candidates=OPTIONS.candidates))
    rows_of_train, parts = runs(known, "train", COUNT)
    users = rows_of_train.users[[part.start for part in parts]]
    assert np.bincount(users).max() > 2


def test_items_without_embeddings_are_refused(tmp_path: Path) -> None:
    data = ratings.write(tmp_path)
    pl.DataFrame({"item_id": [1], "v": [[1.0, 0.0]]}).write_parquet(data / "vectors.parquet")
    options = IndexOptions(external=ExternalOptions(data / "vectors.parquet"), candidates=Candidates("retrieved", 3))
    with pytest.raises(InputError, match="candidates retrieved:3: no like of the train split is among them"):
        ratings.index_files(data, options)
