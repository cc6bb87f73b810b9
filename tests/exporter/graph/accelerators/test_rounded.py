"""On the CPU a half graph rounds every half, overflow included."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from rexit.exporter.graph.accelerators.rounded import rounded

A = np.array([[60000.0, 1.0, 2049.0]], np.float16)


def _run(path: Path, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session = ort.InferenceSession(ir.to_proto(rounded(ir.load(path))).SerializeToString(), options)
    return dict(zip((output.name for output in session.get_outputs()), session.run(None, feed), strict=True))


def _graph(path: Path, nodes: list[onnx.NodeProto], outputs: dict[str, int], **constants: np.ndarray) -> Path:
    graph = helper.make_graph(
        nodes,
        "half",
        [helper.make_tensor_value_info("a", TensorProto.FLOAT16, [1, 3])],
        [helper.make_tensor_value_info(name, dtype, [1, 3]) for name, dtype in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(onnx.shape_inference.infer_shapes(model), path)
    return path


def test_each_result_is_rounded_and_may_overflow(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Add", ["a", "one"], ["sum"]),
        helper.make_node("Sub", ["sum", "a"], ["step"]),
        helper.make_node("Add", ["a", "a"], ["twice"]),
        helper.make_node("Sub", ["twice", "a"], ["once"]),
    ]
    outputs = dict.fromkeys(("sum", "step", "once"), TensorProto.FLOAT16)
    path = _graph(tmp_path / "sums.onnx", nodes, outputs, one=np.ones((1, 3), np.float16))
    actual = _run(path, {"a": A})
    assert all(value.dtype == np.float16 for value in actual.values())
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(actual["sum"], A + np.float16(1))
        np.testing.assert_array_equal(actual["step"], (A + np.float16(1)) - A)
        np.testing.assert_array_equal(actual["once"], (A + A) - A)
    assert np.isinf(actual["once"][0, 0])
    # What ONNX Runtime makes of the same graph by itself: the reason for all this.
    assert np.isfinite(ort.InferenceSession(path).run(["once"], {"a": A})[0]).all()


def test_casts_in_the_graph_keep_their_meaning(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["a"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["wide", "third"], ["exact"]),
        helper.make_node("Cast", ["exact"], ["narrow"], to=TensorProto.FLOAT16),
        helper.make_node("Add", ["narrow", "narrow"], ["out"]),
    ]
    outputs = {"exact": TensorProto.FLOAT, "out": TensorProto.FLOAT16}
    actual = _run(_graph(tmp_path / "casts.onnx", nodes, outputs, third=np.full((1, 3), 1 / 3, np.float32)), {"a": A})
    exact = A.astype(np.float32) * np.float32(1 / 3)
    np.testing.assert_array_equal(actual["exact"], exact)
    np.testing.assert_array_equal(actual["out"], exact.astype(np.float16) * np.float16(2))
