"""A bundle with golden samples, the catalog it was made from, and a newer one: `bundle`, `catalog`, `newer`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from builders.bundles.grown_catalog import write_grown
from builders.bundles.held_out import write_ranked
from running.command import run  # noqa: F401
from running.traced import traced  # noqa: F401


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("refreshed")
    write_ranked(place)
    write_grown(place / "catalog", place / "newer")
    return place


@pytest.fixture
def place(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "place"))
