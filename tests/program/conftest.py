"""Bundles that rexit-run and Python both open."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from builders.bundles.bundle_files import write_policy
from builders.bundles.held_out import write_ranked

LIMITS = [{"a": 1.1, "b": 0.1, "upper": limit, "lower": limit} for limit in (2.0, 8.0, 8.0)]
"""Under which the tiny bundle's candidates stop at every exit."""


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With golden samples and a policy."""
    made = write_ranked(tmp_path_factory.mktemp("program")).bundle
    write_policy(made, LIMITS)
    return made


@pytest.fixture
def spoilt(bundle: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(bundle, tmp_path / "bundle"))


@pytest.fixture(scope="session")
def string_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ranked(tmp_path_factory.mktemp("program-strings"), strings=True).bundle
