"""A bundle whose retriever came from elsewhere takes newer embeddings: other similar users, the same runtime and prompts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from builders.data.indexed_catalog import ITEMS, USERS, write_indexed_catalog
from builders.models.checkpoints import tiny_checkpoint
from rexit import runtime
from rexit.bundle import Catalog
from rexit.exporter.export import export_bundle
from rexit.exporter.index import build_catalog
from rexit.exporter.options import ExportOptions, ExternalOptions, IndexOptions
from rexit.exporter.prompt.builder import PromptBuilder
from running.command import Run

DIM = 4


def index(place: Path, out: str, seed: int) -> Catalog:
    random = np.random.default_rng(seed)
    for name, ids in (("user", range(100, 100 + USERS)), ("item", range(1000, 1000 + ITEMS))):
        table = pl.DataFrame({f"{name}_id": ids, "embedding": random.normal(size=(len(ids), DIM)).tolist()})
        table.write_parquet(place / f"{name}.parquet")
    data = (place / "interactions.csv", place / "items.csv", str(place / "tokenizer.json"), place / "prompt.toml", place / out)
    external = ExternalOptions(place / "item.parquet", place / "user.parquet")
    build_catalog(*data, IndexOptions(neighbours=3, external=external))
    return Catalog.open(place / out)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write_indexed_catalog(tmp_path)
    tiny_checkpoint(tmp_path / "checkpoint", (2,), catalog=index(tmp_path, "given", 0), num_hidden_layers=2)
    export_bundle(tmp_path / "checkpoint", tmp_path / "given", tmp_path / "bundle", ExportOptions(golden_slates=4))
    return tmp_path


def test_newer_embeddings_are_refreshed(run: Run, place: Path) -> None:
    newer = index(place, "newer", 1)
    items = newer.items.take(np.arange(ITEMS))
    with runtime.open(place / "bundle") as session:
        before = session.score(100, items).log_odds
    done = run("refresh", place / "bundle", "--catalog", place / "newer")
    assert done.code == 0, done.err
    assert run("verify", place / "bundle").code == 0
    with runtime.open(place / "bundle") as session:
        after = session.score(100, items).log_odds
        prefix, candidates = session.prompt(100, items[:1])
    assert (before != after).any(), "other users are similar now"
    expected = PromptBuilder.of(newer, "test").prompt(100, items[:1])
    assert (prefix == expected.prefix).all(), "Python and C++ see the same neighbours"
    assert (candidates[0] == expected.candidates[0]).all()
