"""One catalog, checkpoint and exported bundle for all of the exporter's tests: exporting takes seconds even when tiny."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from running.command import run  # noqa: F401
from running.exporting import export, run_export  # noqa: F401
from running.session import built_once
from running.traced import traced  # noqa: F401


@pytest.fixture
def untraced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch itself is asked, each time."""
    from rexit.exporter.graph import trace

    monkeypatch.setattr(trace, "trace", trace.trace.__wrapped__)  # type: ignore[attr-defined]


@pytest.fixture(scope="session")
def catalog_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from builders.data.indexed_catalog import write_indexed_catalog

    return built_once(tmp_path_factory, "indexed", write_indexed_catalog) / "catalog"


@pytest.fixture(scope="session")
def checkpoint_folder(catalog_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from builders.models.checkpoints import tiny_checkpoint
    from rexit.format.bundle import Catalog

    def build(place: Path) -> None:
        tiny_checkpoint(place / "own", catalog=Catalog.open(catalog_folder))

    return built_once(tmp_path_factory, "checkpoint", build) / "own"


@pytest.fixture(scope="session")
def exported(checkpoint_folder: Path, catalog_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with the variant cpu-fp32. Copy it before changing it."""
    from rexit.exporter.export import export_bundle
    from rexit.exporter.options import ExportOptions

    def build(place: Path) -> None:
        export_bundle(checkpoint_folder, catalog_folder, place / "bundle", ExportOptions(golden_slates=6))

    return built_once(tmp_path_factory, "exported", build) / "bundle"


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change, alone in its folder."""
    return Path(shutil.copytree(exported, tmp_path / "place" / "bundle"))


@pytest.fixture(scope="session")
def tensorrt_checkpoint(catalog_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every linear layer's rows divide into blocks of 64."""
    from builders.models.checkpoints import tiny_checkpoint
    from rexit.format.bundle import Catalog

    def build(place: Path) -> None:
        tiny_checkpoint(place / "blocks", catalog=Catalog.open(catalog_folder), intermediate_size=128)

    return built_once(tmp_path_factory, "tensorrt-checkpoint", build) / "blocks"


@pytest.fixture(scope="session")
def tensorrt_exported(tensorrt_checkpoint: Path, catalog_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with the variants tensorrt-fp16, -int8 and -int4. Copy it before changing it."""
    from rexit.exporter.export import export_bundle
    from rexit.exporter.options import ExportOptions

    # The tiny model is random: 4 bits may cost it more than they would cost a trained one.
    precisions = ["fp16", "int8", "int4"]
    options = ExportOptions(target="tensorrt", precisions=precisions, golden_slates=4, accept_loss=True)

    def build(place: Path) -> None:
        export_bundle(tensorrt_checkpoint, catalog_folder, place / "bundle", options)

    return built_once(tmp_path_factory, "tensorrt", build) / "bundle"
