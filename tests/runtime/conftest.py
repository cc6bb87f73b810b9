"""A small bundle, and a session of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from builders.bundles.bundle import write_bundle
from rexit import runtime


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("tiny") / "bundle")


@pytest.fixture
def session(folder: Path) -> runtime.Session:
    return runtime.open(folder)
