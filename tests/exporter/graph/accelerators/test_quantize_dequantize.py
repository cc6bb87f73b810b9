"""Fixed scales in 8 bits: what the graph becomes, and that it computes what its numbers say."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from rexit.errors import CheckpointError
from rexit.exporter.graph.accelerators.half import half
from rexit.exporter.graph.accelerators.opset import to_opset_19
from rexit.exporter.graph.accelerators.quantize_dequantize import half_scale, quantize_dequantize_fp8, quantize_dequantize_int8
from rexit.exporter.graph.linear.fixed_scale import clipping_bound
from rexit.exporter.graph.linear.linear import SAMPLE
from rexit.exporter.graph.linear.round_weights import rounded_weights

K, N = 64, 48
RANDOM = np.random.default_rng(0)
X, SEEN = RANDOM.standard_normal((5, K)).astype(np.float32), RANDOM.standard_normal((80, K)).astype(np.float32)
A, B = (RANDOM.standard_normal((K, N)).astype(np.float32) for _ in range(2))


def _model(**weights: np.ndarray) -> ir.Model:
    """Each weight multiplies x; their sum."""
    nodes = [helper.make_node("MatMul", ["x", name], [f"y_{name}"]) for name in weights]
    nodes.append(helper.make_node("Sum", [f"y_{name}" for name in weights], ["y"]))
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["T", K])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["T", N])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    onnx_model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    model = ir.from_proto(onnx.shape_inference.infer_shapes(onnx_model))
    model.graph.inputs[0].meta[SAMPLE] = SEEN
    return model


def _run(model: ir.Model, x: np.ndarray = X) -> np.ndarray:
    proto = ir.to_proto(to_opset_19(model))
    onnx.checker.check_model(proto, full_check=True)
    options = ort.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    out: np.ndarray = ort.InferenceSession(proto.SerializeToString(), options).run(None, {"x": x})[0]
    return out


def test_int8_computes_what_it_says() -> None:
    step, columns = half_scale(np.array(clipping_bound(SEEN)), 127), half_scale(np.abs(A).max(0), 127)
    x = np.clip(np.rint(X / step), -128, 127) * step
    weight = rounded_weights(A, columns, SEEN, float(step)) * columns
    np.testing.assert_allclose(_run(quantize_dequantize_int8(_model(a=A))), x @ weight, atol=1e-4)


def test_int8_takes_the_scale_it_is_given() -> None:
    model = quantize_dequantize_int8(_model(a=A), lambda x: 15.875 if x is SEEN else 0)
    columns = half_scale(np.abs(A).max(0), 127)
    expected = (np.rint(X / 0.125) * 0.125) @ (rounded_weights(A, columns, SEEN, 0.125) * columns)
    np.testing.assert_allclose(_run(model), expected, atol=1e-4)


def test_fp8_computes_what_it_says() -> None:
    step, columns = half_scale(2 * np.abs(SEEN).max(), 448), half_scale(np.abs(A).max(0), 448)
    e4m3 = ml_dtypes.float8_e4m3fn
    x = (X / step).clip(-448, 448).astype(e4m3).astype(np.float32) * step
    weight = (A / columns).astype(e4m3).astype(np.float32) * columns
    np.testing.assert_allclose(_run(quantize_dequantize_fp8(_model(a=A))), x @ weight, atol=1e-4)


def test_a_layer_that_would_lose_too_much_stays() -> None:
    """One token is a thousand times as large as the rest: no scale serves all."""
    model, sample = _model(a=A), SEEN.copy()
    sample[::2] *= 1000
    model.graph.inputs[0].meta[SAMPLE] = sample
    before = [node.op_type for node in model.graph]
    assert [node.op_type for node in quantize_dequantize_int8(model).graph] == before
    assert "QuantizeLinear" in [node.op_type for node in quantize_dequantize_fp8(model).graph]


def test_half_knows_the_types_of_float8(caplog: pytest.LogCaptureFixture) -> None:
    """onnx-ir logs a traceback where it cannot infer them."""
    half(quantize_dequantize_fp8(to_opset_19(_model(a=A))))
    assert not caplog.records
    half(quantize_dequantize_fp8(_model(a=A)))
    assert caplog.records  # at an opset that has no such type: so the line above can fail


def test_readers_of_one_input_share_its_quantization() -> None:
    model = quantize_dequantize_int8(_model(a=A, b=B))
    ops = [node.op_type for node in model.graph]
    assert ops.count("QuantizeLinear") == 1 and ops.count("DequantizeLinear") == 3
    assert {str(v.dtype) for v in model.graph.initializers.values() if v.shape is not None and len(v.shape) == 2} == {
        "FLOAT",
        "INT8",
    }


def test_what_is_beyond_the_range_saturates() -> None:
    model = quantize_dequantize_int8(_model(a=np.eye(K, N, dtype=np.float32)))
    assert _run(model, np.full((1, K), 100.0, np.float32)).max() == pytest.approx(clipping_bound(SEEN), rel=3e-3)


def test_scales_are_halves_and_never_clip() -> None:
    largest = np.abs(RANDOM.standard_normal(10000)).astype(np.float32)
    scale = half_scale(largest, 127)
    np.testing.assert_array_equal(scale, scale.astype(np.float16))
    assert (scale * 127 >= largest * (1 - 1e-6)).all() and (scale <= largest / 127 * 1.001 + 6e-8).all()
    np.testing.assert_array_equal(half_scale(np.zeros(2, np.float32), 127), [1, 1])
    assert half_scale(np.array([1e-12], np.float32), 127)[0] > 0


def test_nothing_to_quantize() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["T", K]) for name in "xy"]
    graph = helper.make_graph(nodes, "none", values[:1], values[1:])
    model = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]))
    with pytest.raises(CheckpointError, match="int8: the graph has no linear layer with a constant weight"):
        quantize_dequantize_int8(model)
