"""What `rexit compile` refuses before anything is compiled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from builders.bundles.bundle_files import refresh
from builders.bundles.engines import engines_of
from builders.bundles.held_out import write_ranked
from builders.bundles.variants import TENSORRT
from rexit.errors import BundleError, InputError
from rexit.exporter.engine.compile import compile_engines


def edited_graph(bundle: Path) -> None:
    path = bundle / "variants" / TENSORRT / "segment-2.onnx.data"
    path.write_bytes(path.read_bytes()[:-1] + b"\7")


def unmasked(bundle: Path) -> None:
    part = bundle / "variants" / TENSORRT / "variant.json"
    part.write_text(part.read_text().replace('"past_padding": true', '"past_padding": false'))
    refresh(bundle, TENSORRT)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (edited_graph, r"segment-2\.onnx\.data: SHA-256 .* \(edited\)"),
        (unmasked, r"variant\.json: the graphs do not mask past_padding, which engines need"),
    ],
)
def test_refused(bundle: Path, change: Callable[[Path], None], message: str) -> None:
    change(bundle)
    with pytest.raises(BundleError, match=message):
        compile_engines(bundle, compute_capability="8.6")
    assert not engines_of(bundle).exists()


def test_bundle_without_tensorrt_variants(tmp_path: Path) -> None:
    folder, _ = write_ranked(tmp_path)
    with pytest.raises(InputError, match=r"no variant for TensorRT, it has: cpu-fp32; `rexit export --target tensorrt`"):
        compile_engines(folder, compute_capability="8.6")
