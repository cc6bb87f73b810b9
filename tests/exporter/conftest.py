"""One catalog, checkpoint and exported bundle for all of the exporter's tests: exporting takes seconds even when tiny."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def catalog_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tiny_catalog import tiny_catalog

    return tiny_catalog(tmp_path_factory.mktemp("catalog"))


@pytest.fixture(scope="session")
def checkpoint_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tiny_catalog import LABELS
    from tiny_models import tiny_checkpoint

    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoint") / "own", labels=LABELS)


@pytest.fixture(scope="session")
def exported(checkpoint_folder: Path, catalog_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with the variant cpu-fp32. Copy it before changing it."""
    from rexit.exporter.export import export

    out = tmp_path_factory.mktemp("bundles") / "bundle"
    export(checkpoint_folder, catalog_folder, out, golden_slates=6)
    return out


@pytest.fixture
def reuse_graphs(exported: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Called, makes `export` copy the graphs of `exported` instead of tracing again: for tests of what stands around tracing."""
    import shutil

    from rexit.bundle import Bundle, Segment
    from rexit.exporter import export as module

    described = Bundle.open(exported).variant.segments

    def copied(_segment: object, k: int, _target: object, folder: Path) -> Segment:
        for name in (described[k].graph, described[k].weights):
            shutil.copyfile(exported / "variants" / "cpu-fp32" / name, folder / name)
        return described[k]

    return lambda: monkeypatch.setattr(module, "export_segment", copied)


@pytest.fixture(scope="session")
def tensorrt_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every linear layer's rows divide into blocks of 64."""
    from tiny_catalog import LABELS
    from tiny_models import tiny_checkpoint

    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoint") / "blocks", labels=LABELS, intermediate_size=128)


@pytest.fixture(scope="session")
def tensorrt_exported(tensorrt_checkpoint: Path, catalog_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with the variants tensorrt-fp16, -int8, -int4 and -fp8. Copy it before changing it."""
    from rexit.exporter.export import export

    out = tmp_path_factory.mktemp("bundles") / "bundle"
    precisions = ["fp16", "int8", "int4", "fp8"]
    # The tiny model is random: 4 bits may cost it more than they would cost a trained one.
    export(tensorrt_checkpoint, catalog_folder, out, target="tensorrt", precisions=precisions, golden_slates=4, accept_loss=True)
    return out
