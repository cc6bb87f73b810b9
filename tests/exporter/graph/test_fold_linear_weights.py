"""Linear layers of every form become MatMul and Add."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from builders.onnx_graphs.graphs import assert_same, count, graph, weight
from rexit.exporter.graph.linear_layers import fold_linear_weights

X = np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32)


@pytest.mark.parametrize(
    ("nodes", "shape", "expected"),
    [
        ("t = Transpose <perm = [1, 0]> (w)\n  y = MatMul(x, t)", (4, 8), {"MatMul": 1}),
        ("t = Transpose(w)\n  y = MatMul(x, t)", (4, 8), {"MatMul": 1}),
        ("y = Gemm(x, w, b)", (8, 4), {"MatMul": 1, "Add": 1}),
        ("y = Gemm <transB = 1> (x, w, b)", (4, 8), {"MatMul": 1, "Add": 1}),
        ("y = Gemm <transB = 1> (x, w)", (4, 8), {"MatMul": 1}),
        ("y = Gemm <alpha = 2.0> (x, w, b)", (8, 4), {"Gemm": 1}),
        ("p = MatMul(x, w)\n  g, u = Split <axis = 1, num_outputs = 2> (p)\n  y = Mul(g, u)", (8, 8), {"MatMul": 2, "Mul": 1}),
    ],
)
def test_forms(nodes: str, shape: tuple[int, int], expected: dict[str, int], tmp_path: Path) -> None:
    text = f"segment (float[T, 8] x) => (float[T, 4] y) {{\n  {nodes}\n}}"
    constants = {"w": weight(*shape), "b": np.arange(4, dtype=np.float32)}
    model = fold_linear_weights(graph(text, constants))
    assert dict(count(model)) == expected
    assert_same(graph(text, constants), model, {"x": X}, tmp_path, rtol=1e-5, atol=1e-5)


def test_heads_stay() -> None:
    text = "segment (float[T, 8] x) => (float[T, 2] logits) { logits = Gemm <transB = 1> (x, w, b) }"
    assert dict(count(fold_linear_weights(graph(text, {"w": weight(2, 8), "b": np.zeros(2, np.float32)})))) == {"Gemm": 1}
