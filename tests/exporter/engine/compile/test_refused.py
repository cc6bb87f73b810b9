"""What `rexit compile` refuses before anything is compiled."""

from __future__ import annotations

from pathlib import Path

import pytest

from builders.bundles.bundle_files import refresh
from builders.bundles.engines import engines_of
from builders.bundles.held_out import write_ranked
from builders.bundles.variants import TENSORRT, add_variant
from rexit.errors import BundleError, InputError
from rexit.exporter.engine.compile import compile_engines


def test_variant_that_is_not_tensorrts(bundle: Path) -> None:
    with pytest.raises(InputError, match=r"variant 'cpu-fp32' is for 'cpu', engines are for `tensorrt` variants"):
        compile_engines(bundle, [TENSORRT, "cpu-fp32"], compute_capability="8.6")


def test_unknown_variant(bundle: Path) -> None:
    with pytest.raises(InputError, match=r"no variant 'tensorrt-fp8', there are: cpu-fp32, tensorrt-fp32"):
        compile_engines(bundle, ["tensorrt-fp8"], compute_capability="8.6")


def test_bundle_without_tensorrt_variants(tmp_path: Path) -> None:

    folder, _ = write_ranked(tmp_path)
    with pytest.raises(InputError, match=r"no variant for TensorRT, it has: cpu-fp32; `rexit export --target tensorrt`"):
        compile_engines(folder, compute_capability="8.6")


def test_edited_graph_is_not_compiled(bundle: Path) -> None:
    path = bundle / "variants" / TENSORRT / "segment-2.onnx.data"
    path.write_bytes(path.read_bytes()[:-1] + b"\7")
    with pytest.raises(BundleError, match=r"segment-2\.onnx\.data: SHA-256 .* \(edited\)"):
        compile_engines(bundle, compute_capability="8.6")


def test_graphs_that_do_not_mask_padding(bundle: Path) -> None:
    part = bundle / "variants" / TENSORRT / "variant.json"
    part.write_text(part.read_text().replace('"past_padding": true', '"past_padding": false'))
    refresh(bundle, TENSORRT)
    with pytest.raises(BundleError, match=r"variant\.json: the graphs do not mask past_padding, which engines need"):
        compile_engines(bundle, compute_capability="8.6")


def test_fp8_for_a_gpu_that_has_none(bundle: Path) -> None:
    add_variant(bundle, TENSORRT, "tensorrt-fp8")
    part = bundle / "variants" / "tensorrt-fp8" / "variant.json"
    part.write_text(part.read_text().replace('"precision": "fp32"', '"precision": "fp8"'))
    refresh(bundle, "tensorrt-fp8")
    with pytest.raises(InputError, match=r"tensorrt-fp8 needs compute capability 8\.9 or higher, engines would be for 8\.6"):
        compile_engines(bundle, compute_capability="8.6")
    assert not engines_of(bundle).exists()


def test_workspace_of_nothing(bundle: Path) -> None:
    with pytest.raises(InputError, match="workspace is 0 bytes"):
        compile_engines(bundle, compute_capability="8.6", workspace_bytes=0)
