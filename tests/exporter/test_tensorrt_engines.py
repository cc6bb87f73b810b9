"""TensorRT's own compiler takes the graphs and does with them what they were made for. Compiled, not run: there is no GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines import build
from rexit.bundle import Bundle
from rexit.exporter.export import export

LAYERS = (1, 1, 2)
LINEARS = 7
"""Linear layers of one decoder layer; queries, keys and values become one gemm, gate and up too."""


@pytest.fixture(scope="module")
def bundle(checkpoint_folder: Path, catalog_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tensorrt") / "bundle"
    export(checkpoint_folder, catalog_folder, out, target="tensorrt", precisions=["fp16"], golden_slates=2, accept_loss=True)
    return out


@pytest.mark.parametrize("k", range(3))
def test_fp16(bundle: Path, k: int) -> None:
    variant = Bundle.open(bundle, "tensorrt-fp16")
    engine = build(variant.folder / variant.variant.segments[k].graph)
    assert engine.count("_gemm_mha") == LAYERS[k]
