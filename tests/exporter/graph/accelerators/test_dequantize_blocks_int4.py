"""4-bit weights in blocks for TensorRT."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from rexit.errors import CheckpointError
from rexit.exporter.graph.accelerators.dequantize_blocks_int4 import BLOCK, dequantize_blocks_int4, quantize_blocks
from rexit.exporter.graph.accelerators.opset import to_opset_21

WEIGHT = np.random.default_rng(0).standard_normal((2 * BLOCK, 10)).astype(np.float32)
WEIGHT[:BLOCK, 3] *= 50
WEIGHT[:, 5] = 0


def _model(weight: np.ndarray) -> ir.Model:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["T", len(weight)])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["T", weight.shape[1]])],
        [numpy_helper.from_array(weight, "w")],
    )
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10))


def test_each_block_has_its_scale() -> None:
    values, scales = quantize_blocks(WEIGHT)
    assert values.min() >= -8 and values.max() <= 7 and scales.shape == (2, 10) and scales.min() > 0
    np.testing.assert_array_equal(scales, scales.astype(np.float16))
    error = np.abs(values * np.repeat(scales, BLOCK, 0) - WEIGHT)
    # Half a step, or what the scale with the least squared error clips.
    assert (error <= 0.3 * np.repeat(np.abs(WEIGHT.reshape(2, BLOCK, -1)).max(1), BLOCK, 0) + 1e-6).all()
    assert np.square(error[:, 0]).mean() < 0.02
    assert not values[:, 5].any()


def test_it_computes_what_it_says() -> None:
    values, scales = quantize_blocks(WEIGHT)
    proto = ir.to_proto(to_opset_21(dequantize_blocks_int4(_model(WEIGHT))))
    onnx.checker.check_model(proto, full_check=True)
    x = np.random.default_rng(1).standard_normal((3, len(WEIGHT))).astype(np.float32)
    options = ort.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    actual = ort.InferenceSession(proto.SerializeToString(), options).run(None, {"x": x})[0]
    np.testing.assert_allclose(actual, x @ (values * np.repeat(scales, BLOCK, 0)), rtol=1e-4, atol=1e-3)


def test_rows_that_do_not_divide() -> None:
    with pytest.raises(CheckpointError, match=r"int4: w has 72 rows \(K\), not divisible into blocks of 64"):
        dequantize_blocks_int4(_model(np.ones((72, 4), np.float32)))
