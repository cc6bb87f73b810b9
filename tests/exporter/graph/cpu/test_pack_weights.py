"""Packed weights: the same bits by ONNX Runtime's operators; what a kernel cannot read stays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from builders.onnx_graphs.graphs import assert_same, count, graph, weight, with_outlier
from rexit.exporter.graph.cpu.fuse_rows import ADD_LAYER_NORM, fuse_rows
from rexit.exporter.graph.cpu.pack_weights import (
    MULTIPLY,
    MULTIPLY_ADD,
    MULTIPLY_ADD_LAYER_NORM,
    MULTIPLY_GEGLU,
    MULTIPLY_GELU,
    MULTIPLY_SWIGLU,
    pack,
    pack_weights,
)
from rexit.exporter.graph.cpu.quantized_weights import quantize_linear_int8
from rexit.exporter.graph.passes import tidy

K = 64
BLOCK = """
segment (float[1, T, 64] x) => (float[1, T, 64] y, float[1, T, N] keys) {
  normed = RMSNormalization <axis = -1, epsilon = 0.001> (x, weight)
  projected = MatMul(normed, w_keys)
  keys = Neg(projected)
  gate = MatMul(normed, w_gate)
  up = MatMul(normed, w_up)
  sigmoid = Sigmoid(gate)
  silu = Mul(gate, sigmoid)
  hidden = Mul(silu, up)
  down = MatMul(hidden, w_down)
  y = Add(x, down)
}"""
PRODUCTS = {MULTIPLY: 1, MULTIPLY_ADD: 1, MULTIPLY_SWIGLU: 1}


def _fused(keys: int = 16, inner: int = 48, text: str = BLOCK) -> ir.Model:
    constants = {"w_gate": weight(K, inner), "w_up": weight(K, inner, 2), "w_down": weight(inner, K, 3)}
    constants |= {"weight": weight(1, K, 4)[0], "w_keys": weight(K, keys, 5)}
    return tidy(fuse_rows(quantize_linear_int8(graph(text.replace("N]", f"{keys}]"), constants))))


GEGLU = BLOCK.replace("sigmoid = Sigmoid(gate)\n  silu = Mul(gate, sigmoid)", 'silu = Gelu <approximate = "tanh"> (gate)')


@pytest.mark.parametrize(("text", "gated"), [(BLOCK, MULTIPLY_SWIGLU), (GEGLU, MULTIPLY_GEGLU)])
def test_a_block_in_three_products_with_the_same_numbers(text: str, gated: str, tmp_path: Path) -> None:
    model = tidy(pack_weights(_fused(text=text)))
    nodes = count(model)
    assert [nodes[name] for name in (MULTIPLY, MULTIPLY_ADD, gated)] == [1, 1, 1]
    assert not nodes["MatMulIntegerToFloat"] and not nodes["Mul"]
    assert_same(_fused(text=text), model, {"x": with_outlier(7, K)}, tmp_path)


ENCODER = """
segment (float[1, T, 64] x) => (float[1, T, 64] z) {
  first = LayerNormalization <axis = -1, epsilon = 0.001> (x, weight, bias)
  product = MatMul(first, w_up)
  inner = Add(product, inner_bias)
  active = Gelu(inner)
  projected = MatMul(active, w_down)
  down = Add(projected, bias)
  mixed = Add(down, first)
  normed = LayerNormalization <axis = -1, epsilon = 0.001> (mixed, weight, bias)
  y = MatMul(normed, w_last)
  z = Add(y, normed)
}"""


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("", ""), [1, 1, 1, 0]),  # the last product is added to the norm
        (("=> (float[1, T, 64] z)", "=> (float[1, T, 64] z, float[1, T, 64] down)"), [1, 0, 2, 1]),
        (("Add(projected, bias)", "Add(projected, x)"), [1, 0, 2, 1]),  # no bias
        (("Add(product, inner_bias)", "Relu(product)"), [0, 1, 1, 0]),
    ],
)
def test_a_product_and_its_bias_with_what_reads_them(change: tuple[str, str], expected: list[int], tmp_path: Path) -> None:
    constants = {"w_up": weight(K, 48), "w_down": weight(48, K, 2), "w_last": weight(K, K, 3), "weight": weight(1, K, 4)[0]}
    constants |= {"bias": weight(1, K, 5)[0], "inner_bias": weight(1, 48, 6)[0]}

    def fused() -> ir.Model:
        return tidy(fuse_rows(quantize_linear_int8(graph(ENCODER.replace(*change), constants))))

    model = tidy(pack_weights(fused()))
    nodes = count(model)
    assert [nodes[name] for name in (MULTIPLY_GELU, MULTIPLY_ADD_LAYER_NORM, MULTIPLY_ADD, ADD_LAYER_NORM)] == expected
    assert_same(fused(), model, {"x": with_outlier(7, K)}, tmp_path)


def test_no_weight_is_stored_twice() -> None:
    sizes = [value.shape for value in tidy(pack_weights(_fused())).graph.initializers.values() if value.dtype == ir.DataType.INT8]
    assert sorted(np.prod(size) for size in sizes) == [K * 16, K * 48, K * 48, K * 48]


@pytest.mark.parametrize(
    ("keys", "inner", "packed"),
    [
        (24, 48, {MULTIPLY_ADD: 1, MULTIPLY_SWIGLU: 1}),  # columns of keys
        (16, 40, {MULTIPLY: 1, MULTIPLY_ADD: 1}),  # columns of gate and up
        (16, 42, {MULTIPLY: 1}),  # and the depth of down
    ],
)
def test_sizes_that_do_not_fit_stay(keys: int, inner: int, packed: dict[str, int], tmp_path: Path) -> None:
    model = tidy(pack_weights(_fused(keys, inner)))
    nodes = count(model)
    assert {name: nodes[name] for name in PRODUCTS if nodes[name]} == packed
    assert_same(_fused(keys, inner), model, {"x": with_outlier(3, K)}, tmp_path)


def test_a_product_that_is_an_output_too_stays() -> None:
    model = _fused()
    product = next(node.outputs[0] for node in model.graph if node.op_type == "MatMulIntegerToFloat")
    product.name = "product"
    model.graph.outputs.append(product)
    assert sum(count(pack_weights(model))[name] for name in PRODUCTS) == 2


def test_the_order_is_that_in_which_kernels_read() -> None:
    values = np.arange(8 * 32).reshape(8, 32).astype(np.int8)
    packed = pack(values)
    assert packed.shape == (2, 2, 16, 4)
    assert all(packed[n // 16, k // 4, n % 16, k % 4] == values[k, n] for k in range(8) for n in range(32))
