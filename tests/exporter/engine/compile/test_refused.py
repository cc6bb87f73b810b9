"""What `rexit compile` refuses before anything is compiled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from builders.bundles.bundle_files import refresh
from builders.bundles.engines import engines_of
from builders.bundles.held_out import write_ranked
from builders.bundles.variants import TENSORRT
from rexit.errors import BundleError, InputError
from rexit.exporter.engine.compile import compile_engines


def edit(bundle: Path, variant: str, old: str, new: str) -> None:
    part = bundle / "variants" / variant / "variant.json"
    part.write_text(part.read_text().replace(old, new))
    refresh(bundle, variant)


def unmasked(bundle: Path) -> None:
    edit(bundle, TENSORRT, '"past_padding": true', '"past_padding": false')


def edited_graph(bundle: Path) -> None:
    path = bundle / "variants" / TENSORRT / "segment-2.onnx.data"
    path.write_bytes(path.read_bytes()[:-1] + b"\7")


def unchanged(bundle: Path) -> None:
    """The options are what is refused."""


@pytest.mark.parametrize(
    ("change", "options", "error", "message"),
    [
        (
            unchanged,
            {"variants": [TENSORRT, "cpu-fp32"]},
            InputError,
            "'cpu-fp32' is for 'cpu', engines are for `tensorrt` variants",
        ),
        (
            unchanged,
            {"variants": ["tensorrt-int8"]},
            InputError,
            "no variant 'tensorrt-int8', there are: cpu-fp32, tensorrt-fp32",
        ),
        (edited_graph, {}, BundleError, r"segment-2\.onnx\.data: SHA-256 .* \(edited\)"),
        (unmasked, {}, BundleError, r"variant\.json: the graphs do not mask past_padding, which engines need"),
    ],
)
def test_refused(
    bundle: Path, change: Callable[[Path], None], options: dict[str, Any], error: type[Exception], message: str
) -> None:
    change(bundle)
    with pytest.raises(error, match=message):
        compile_engines(bundle, compute_capability="8.6", **options)
    assert not engines_of(bundle).exists()


def test_bundle_without_tensorrt_variants(tmp_path: Path) -> None:
    folder, _ = write_ranked(tmp_path)
    with pytest.raises(InputError, match=r"no variant for TensorRT, it has: cpu-fp32; `rexit export --target tensorrt`"):
        compile_engines(folder, compute_capability="8.6")
