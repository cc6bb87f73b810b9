"""Bundles to compile: the tests' own model, in standard ops, which every compiler takes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from builders.bundles.held_out import write_ranked
from builders.bundles.variants import TENSORRT
from rexit.exporter.engine.compile import CompileReport, compile_engines


@pytest.fixture(scope="module")
def exported_variants(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ranked(tmp_path_factory.mktemp("tensorrt"), variants=(TENSORRT,)).bundle


@pytest.fixture
def bundle(exported_variants: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(exported_variants, tmp_path / "bundle"))


@pytest.fixture(scope="module")
def compiled_bundle(exported_variants: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CompileReport]:
    path = Path(shutil.copytree(exported_variants, tmp_path_factory.mktemp("compiled") / "bundle"))
    return path, compile_engines(path, compute_capability="8.6")


@pytest.fixture
def compiled(compiled_bundle: tuple[Path, CompileReport], tmp_path: Path) -> Path:
    return Path(shutil.copytree(compiled_bundle[0], tmp_path / "bundle"))
