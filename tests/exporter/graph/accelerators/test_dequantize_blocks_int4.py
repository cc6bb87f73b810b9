"""4-bit weights in blocks for TensorRT."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from builders.onnx_graphs.graphs import graph, run
from rexit.errors import CheckpointError
from rexit.exporter.graph.accelerators import BLOCK, dequantize_blocks_int4, quantize_blocks, to_opset_21

WEIGHT = np.random.default_rng(0).standard_normal((2 * BLOCK, 10)).astype(np.float32)
WEIGHT[:BLOCK, 3] *= 50
WEIGHT[:, 5] = 0


def _model(weight: np.ndarray) -> ir.Model:
    rows, columns = weight.shape
    return graph(f"linear (float[T, {rows}] x) => (float[T, {columns}] y) {{ y = MatMul(x, w) }}", {"w": weight}, 18)


def test_each_block_has_its_scale() -> None:
    values, scales = quantize_blocks(WEIGHT)
    assert values.min() >= -8 and values.max() <= 7 and scales.shape == (2, 10) and scales.min() > 0
    np.testing.assert_array_equal(scales, scales.astype(np.float16))
    error = np.abs(values * np.repeat(scales, BLOCK, 0) - WEIGHT)
    # Half a step, or what the scale with the least squared error clips.
    assert (error <= 0.3 * np.repeat(np.abs(WEIGHT.reshape(2, BLOCK, -1)).max(1), BLOCK, 0) + 1e-6).all()
    assert np.square(error[:, 0]).mean() < 0.02
    assert not values[:, 5].any()


def test_it_computes_what_it_says(tmp_path: Path) -> None:
    values, scales = quantize_blocks(WEIGHT)
    x = np.random.default_rng(1).standard_normal((3, len(WEIGHT))).astype(np.float32)
    actual = run(to_opset_21(dequantize_blocks_int4(_model(WEIGHT))), {"x": x}, tmp_path, disable_quant_qdq="1")["y"]
    np.testing.assert_allclose(actual, x @ (values * np.repeat(scales, BLOCK, 0)), rtol=1e-4, atol=1e-3)


def test_weight_not_divisible_is_named() -> None:
    with pytest.raises(CheckpointError, match=r"int4: w has 96 rows \(K\), not divisible into blocks of 64"):
        dequantize_blocks_int4(_model(np.ones((96, 4), np.float32)))
