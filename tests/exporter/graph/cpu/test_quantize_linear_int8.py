"""int8 linear layers: per-token scales against NumPy, shared quantization, heads left alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from builders.onnx_graphs.graphs import count, error, graph, run, weight, with_outlier
from rexit.errors import CheckpointError
from rexit.exporter.graph.cpu.quantized_weights import quantize_linear_int8

K = 64
SHARED = """
segment (float[1, T, 64] x) => (float[1, T, 32] q, float[1, T, 16] k, float[1, T, 24] v) {
  q = MatMul(x, wq)
  k = MatMul(x, wk)
  v = MatMul(x, wv)
}"""


def _shared() -> dict[str, np.ndarray]:
    return {"wq": weight(K, 32), "wk": weight(K, 16, 2), "wv": weight(K, 24, 3)}


def _expected(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The rules of the docstring, in float64 and whole numbers."""
    scale = np.maximum(np.abs(x).max(-1, keepdims=True), np.float32(1e-30)) * np.float32(1 / 127)
    q = np.rint(x / scale).clip(-128, 127).astype(np.int64)
    column = np.abs(w).max(0) / np.float32(127)
    return (q @ np.rint(w / column).astype(np.int64)) * scale.astype(np.float64) * column


def test_same_as_numpy_with_an_outlier_and_a_token_of_zeros(tmp_path: Path) -> None:
    x, weights = with_outlier(9, K), _shared()
    x[0, 1] = 0
    model = quantize_linear_int8(graph(SHARED, weights))
    assert (count(model)["QuantizeRows"], count(model)["MatMulIntegerToFloat"], count(model)["MatMul"]) == (1, 3, 0)
    actual = run(model, {"x": x}, tmp_path)
    for name, output in actual.items():
        w = weights[f"w{name}"]
        np.testing.assert_allclose(output, _expected(x, w), rtol=2e-6, atol=2e-6 * np.abs(output).max())
        assert error(output[:, 1:], (x @ w)[:, 1:]) < 0.015  # the outlier costs the other tokens nothing


def test_a_layer_that_reads_another(tmp_path: Path) -> None:
    text = "segment (float[1, T, 64] x) => (float[1, T, 16] y) { q = MatMul(x, wq) \n y = MatMul(q, wy) }"
    x, weights = with_outlier(5, K), {"wq": weight(K, 32), "wy": weight(32, 16)}
    actual = run(quantize_linear_int8(graph(text, weights)), {"x": x}, tmp_path)["y"]
    assert error(actual[:, 1:], (x @ weights["wq"] @ weights["wy"])[:, 1:]) < 0.03


def test_heads_and_products_of_two_inputs_stay(tmp_path: Path) -> None:
    text = """
segment (float[T, 64] x, float[64, 8] y) => (float[T, 64] hidden, float[T, 2] logits, float[T, 8] scores) {
  hidden = MatMul(x, w)
  a = Relu(hidden)
  b = MatMul(a, head)
  logits = Add(b, bias)
  scores = MatMul(x, y)
}"""
    constants = {"w": weight(K, K), "head": weight(K, 2), "bias": np.ones(2, np.float32)}
    model = quantize_linear_int8(graph(text, constants))
    assert count(model)["MatMul"] == 2 and count(model)["MatMulIntegerToFloat"] == 1
    assert model.graph.initializers["head"].uses() and not model.graph.initializers["w"].uses()
    x = with_outlier(5, K)[0]
    actual = run(model, {"x": x, "y": weight(64, 8)}, tmp_path)
    np.testing.assert_allclose(actual["logits"], np.maximum(actual["hidden"], 0) @ constants["head"] + 1, rtol=1e-4, atol=1e-4)


def test_nothing_to_quantize_and_a_batch() -> None:
    nothing = "segment (float[T, 64] x) => (float[T, 64] y) { y = Relu(x) }"
    with pytest.raises(CheckpointError, match="int8: the graph has no linear layer"):
        quantize_linear_int8(graph(nothing, {}))
    batched = "segment (float[4, T, 64] x) => (float[4, T, 32] y) { y = MatMul(x, w) }"
    with pytest.raises(CheckpointError, match=r"int8: w multiplies a value of shape .*4.*, expected \[T, K\] or \[1, T, K\]"):
        quantize_linear_int8(graph(batched, {"w": weight(K, 32)}))
