"""Heads without Gemm compute the same, and ONNX Runtime makes none of what is left."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from builders.onnx_graphs.graphs import assert_same, count, graph, weight
from rexit.exporter.graph.accelerators import heads_without_gemm

X = np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32)
BIAS = np.array([0.3, -1.7], np.float32)


@pytest.mark.parametrize(
    ("node", "shape", "expected"),
    [
        ("logits = Gemm <transB = 1> (x, w, b)", (2, 8), {"MatMul": 1, "Sub": 1}),
        ("logits = Gemm(x, w, b)", (8, 2), {"MatMul": 1, "Sub": 1}),
        ("logits = Gemm <transB = 1> (x, w)", (2, 8), {"MatMul": 1}),
        ("logits = Gemm <transB = 1, alpha = 2.0> (x, w, b)", (2, 8), {"Gemm": 1}),
        ("c = Neg(b)\n  logits = Gemm <transB = 1> (x, w, c)", (2, 8), {"Neg": 1, "Gemm": 1}),
        ("y = Gemm <transB = 1> (x, w, b)\n  logits = MatMul(y, v)", (2, 8), {"Gemm": 1, "MatMul": 1}),
    ],
)
def test_forms(node: str, shape: tuple[int, int], expected: dict[str, int], tmp_path: Path) -> None:
    text = f"segment (float[T, 8] x) => (float[T, 2] logits) {{\n  {node}\n}}"
    constants = {"w": weight(*shape), "b": BIAS, **({"v": weight(2, 2)} if "v)" in node else {})}
    model = heads_without_gemm(graph(text, constants))
    assert dict(count(model)) == expected
    assert_same(graph(text, constants), model, {"x": X}, tmp_path, rtol=1e-6, atol=1e-6)


def test_onnxruntime_makes_no_gemm(tmp_path: Path) -> None:
    text = "segment (float[T, 8] x) => (float[T, 2] logits) { logits = Gemm <transB = 1> (x, w, b) }"
    model = heads_without_gemm(graph(text, {"w": weight(2, 8), "b": BIAS}))
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    ort.InferenceSession(ir.serde.serialize_model(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    optimized = onnx.load(tmp_path / "optimized.onnx")
    assert "Gemm" not in [node.op_type for node in optimized.graph.node]
