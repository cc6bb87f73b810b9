"""One catalog, checkpoint and exported bundle for all of the exporter's tests: exporting takes seconds even when tiny."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from running.traced import traced  # noqa: F401


@pytest.fixture
def untraced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch itself is asked, each time."""
    from rexit.exporter.graph import trace

    monkeypatch.setattr(trace, "trace", trace.trace.__wrapped__)  # type: ignore[attr-defined]


@pytest.fixture(scope="session")
def catalog_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from builders.data.indexed_catalog import write_indexed_catalog

    return write_indexed_catalog(tmp_path_factory.mktemp("catalog"))


@pytest.fixture(scope="session")
def checkpoint_folder(catalog_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from builders.models.checkpoints import tiny_checkpoint
    from rexit.bundle import Catalog

    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoint") / "own", catalog=Catalog.open(catalog_folder))


@pytest.fixture(scope="session")
def exported(checkpoint_folder: Path, catalog_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with the variant cpu-fp32. Copy it before changing it."""
    from rexit.exporter.export import export_bundle
    from rexit.exporter.options import ExportOptions

    out = tmp_path_factory.mktemp("bundles") / "bundle"
    export_bundle(checkpoint_folder, catalog_folder, out, ExportOptions(golden_slates=6))
    return out


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change, alone in its folder."""
    return Path(shutil.copytree(exported, tmp_path / "place" / "bundle"))


@pytest.fixture(scope="session")
def tensorrt_checkpoint(catalog_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every linear layer's rows divide into blocks of 64."""
    from builders.models.checkpoints import tiny_checkpoint
    from rexit.bundle import Catalog

    folder = tmp_path_factory.mktemp("checkpoint") / "blocks"
    return tiny_checkpoint(folder, catalog=Catalog.open(catalog_folder), intermediate_size=128)


@pytest.fixture(scope="session")
def tensorrt_exported(tensorrt_checkpoint: Path, catalog_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with the variants tensorrt-fp16, -int8, -int4 and -fp8. Copy it before changing it."""
    from rexit.exporter.export import export_bundle
    from rexit.exporter.options import ExportOptions

    out = tmp_path_factory.mktemp("bundles") / "bundle"
    precisions = ["fp16", "int8", "int4", "fp8"]
    # The tiny model is random: 4 bits may cost it more than they would cost a trained one.
    export_bundle(
        tensorrt_checkpoint,
        catalog_folder,
        out,
        ExportOptions(target="tensorrt", precisions=precisions, golden_slates=4, accept_loss=True),
    )
    return out
