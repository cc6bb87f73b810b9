"""Fixed scales in 8 bits: what the graph becomes, and that it computes what its numbers say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from builders.onnx_graphs.graphs import graph, run
from rexit.exporter.graph.accelerators import half_scale, quantize_dequantize_int8, to_opset_19
from rexit.exporter.graph.linear_layers import SAMPLE
from rexit.exporter.graph.rounding import clipping_bound, rounded_weights

K, N = 64, 48
RANDOM = np.random.default_rng(0)
X, SEEN = RANDOM.standard_normal((5, K)).astype(np.float32), RANDOM.standard_normal((80, K)).astype(np.float32)
A, B = (RANDOM.standard_normal((K, N)).astype(np.float32) for _ in range(2))


def _model(**weights: np.ndarray) -> ir.Model:
    """Each weight multiplies x; their sum."""
    nodes = "\n".join(f"y_{name} = MatMul(x, {name})" for name in weights)
    total = f"y = Sum({', '.join(f'y_{name}' for name in weights)})"
    model = graph(f"linear (float[T, {K}] x) => (float[T, {N}] y) {{ {nodes}\n{total} }}", weights, 18)
    model.graph.inputs[0].meta[SAMPLE] = SEEN
    return model


Run = Callable[..., np.ndarray]


@pytest.fixture
def run_exactly(tmp_path: Path) -> Run:
    """Without fused int8 products, which saturate on some CPUs."""
    return lambda model, x=X: run(to_opset_19(model), {"x": x}, tmp_path, disable_quant_qdq="1")["y"]


def test_int8_computes_what_it_says(run_exactly: Run) -> None:
    step, columns = half_scale(np.array(clipping_bound(SEEN)), 127), half_scale(np.abs(A).max(0), 127)
    x = np.clip(np.rint(X / step), -128, 127) * step
    weight = rounded_weights(A, columns, SEEN, float(step)) * columns
    np.testing.assert_allclose(run_exactly(quantize_dequantize_int8(_model(a=A))), x @ weight, atol=1e-4)


def test_a_layer_that_would_lose_too_much_stays() -> None:
    """One token is a thousand times as large as the rest: no scale serves all."""
    model, sample = _model(a=A), SEEN.copy()
    sample[::2] *= 1000
    model.graph.inputs[0].meta[SAMPLE] = sample
    before = [node.op_type for node in model.graph]
    assert [node.op_type for node in quantize_dequantize_int8(model).graph] == before


def test_readers_of_one_input_share_its_quantization() -> None:
    model = quantize_dequantize_int8(_model(a=A, b=B))
    ops = [node.op_type for node in model.graph]
    assert ops.count("QuantizeLinear") == 1 and ops.count("DequantizeLinear") == 3
    assert {str(v.dtype) for v in model.graph.initializers.values() if v.shape is not None and len(v.shape) == 2} == {
        "FLOAT",
        "INT8",
    }


def test_what_is_beyond_the_range_saturates(run_exactly: Run) -> None:
    model = quantize_dequantize_int8(_model(a=np.eye(K, N, dtype=np.float32)))
    assert run_exactly(model, np.full((1, K), 100.0, np.float32)).max() == pytest.approx(clipping_bound(SEEN), rel=3e-3)


def test_scales_are_halves_and_never_clip() -> None:
    largest = np.abs(RANDOM.standard_normal(10000)).astype(np.float32)
    scale = half_scale(largest, 127)
    np.testing.assert_array_equal(scale, scale.astype(np.float16))
    assert (scale * 127 >= largest * (1 - 1e-6)).all() and (scale <= largest / 127 * 1.001 + 6e-8).all()
    np.testing.assert_array_equal(half_scale(np.zeros(2, np.float32), 127), [1, 1])
    assert half_scale(np.array([1e-12], np.float32), 127)[0] > 0
