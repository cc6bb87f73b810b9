"""On the CPU a half graph rounds every half, overflow included."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from builders.onnx_graphs.graphs import graph
from rexit.exporter.graph.accelerators import round_halves

A = np.array([[60000.0, 1.0, 2049.0]], np.float16)


def _run(path: Path, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session = ort.InferenceSession(ir.to_proto(round_halves(ir.load(path))).SerializeToString(), options)
    return dict(zip((output.name for output in session.get_outputs()), session.run(None, feed), strict=True))


def _graph(path: Path, text: str, **constants: np.ndarray) -> Path:
    ir.save(graph(f"half (float16[1, 3] a) => {text}", constants, 18), path)
    return path


def test_each_result_is_rounded_and_may_overflow(tmp_path: Path) -> None:
    text = """(float16[1, 3] sum, float16[1, 3] step, float16[1, 3] once) {
  sum = Add(a, one)
  step = Sub(sum, a)
  twice = Add(a, a)
  once = Sub(twice, a)
}"""
    path = _graph(tmp_path / "sums.onnx", text, one=np.ones((1, 3), np.float16))
    actual = _run(path, {"a": A})
    assert all(value.dtype == np.float16 for value in actual.values())
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(actual["sum"], A + np.float16(1))
        np.testing.assert_array_equal(actual["step"], (A + np.float16(1)) - A)
        np.testing.assert_array_equal(actual["once"], (A + A) - A)
    assert np.isinf(actual["once"][0, 0])
    # ONNX Runtime computes the same graph in float32 by itself: the reason for this pass.
    assert np.isfinite(ort.InferenceSession(path).run(["once"], {"a": A})[0]).all()


def test_casts_in_the_graph_keep_their_meaning(tmp_path: Path) -> None:
    text = """(float[1, 3] exact, float16[1, 3] out) {
  wide = Cast <to = 1> (a)
  exact = Mul(wide, third)
  narrow = Cast <to = 10> (exact)
  out = Add(narrow, narrow)
}"""
    actual = _run(_graph(tmp_path / "casts.onnx", text, third=np.full((1, 3), 1 / 3, np.float32)), {"a": A})
    exact = A.astype(np.float32) * np.float32(1 / 3)
    np.testing.assert_array_equal(actual["exact"], exact)
    np.testing.assert_array_equal(actual["out"], exact.astype(np.float16) * np.float16(2))
