"""4-bit weights: packing against NumPy, small errors, and weights that are not divisible into blocks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from builders.onnx_graphs.graphs import count, error, graph, run, weight, with_outlier
from rexit.errors import CheckpointError
from rexit.exporter.graph.cpu.quantized_weights import BLOCK, quantize_blocks, quantize_weights_int4

K, N = 96, 40
TEXT = """
segment (float[1, T, 96] x) => (float[1, T, 40] y, float[1, T, 2] logits) {
  y = MatMul(x, w)
  logits = MatMul(y, head)
}"""


def _unpack(packed: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """[K, N] again, from what MatMulNBits documents: two values to a byte, the first in the low half, zero point 8."""
    halves = np.stack([packed & 15, packed >> 4], -1).reshape(*packed.shape[:2], -1).astype(np.float32)
    return ((halves - 8) * scales[..., None]).reshape(len(packed), -1).T


def test_same_as_numpy_with_an_outlier_token(tmp_path: Path) -> None:
    w, x = weight(K, N), with_outlier(7, K)
    model = quantize_weights_int4(graph(TEXT, {"w": w, "head": weight(N, 2)}))
    assert count(model)["MatMulNBits"] == count(model)["MatMul"] == 1  # the head's stays
    actual = run(model, {"x": x}, tmp_path)["y"]
    assert error(actual[:, 1:], (x @ _unpack(*quantize_blocks(w)))[:, 1:]) < 0.02  # what goes in is rounded to int8


def test_weights_come_close() -> None:
    w = weight(K, N)
    packed, scales = quantize_blocks(w)
    assert packed.shape == (N, K // BLOCK, BLOCK // 2) and packed.dtype == np.uint8 and scales.dtype == np.float32
    assert error(_unpack(packed, scales), w) < 0.09


def test_whole_steps_are_exact_and_zeros_stay_zero() -> None:
    w = np.zeros((BLOCK, 2), np.float32)
    w[:, 0] = np.arange(BLOCK) % 16 - 8
    np.testing.assert_array_equal(_unpack(*quantize_blocks(w)), w)


def test_weight_not_divisible_is_named() -> None:
    text = "segment (float[T, 72] x) => (float[T, 8] y) { y = MatMul(x, w) }"
    with pytest.raises(CheckpointError, match=r"int4: w has 72 rows \(K\), not divisible into blocks of 32"):
        quantize_weights_int4(graph(text, {"w": weight(72, 8)}))
