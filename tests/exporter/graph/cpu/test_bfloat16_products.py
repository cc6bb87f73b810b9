"""Linear layers in bfloat16: which nodes change, the numbers, the layout of weights."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from builders.onnx_graphs.function_graphs import bfloat16
from builders.onnx_graphs.graphs import count, error, graph, run, weight, with_outlier
from rexit.errors import CheckpointError
from rexit.exporter.graph.cpu.bfloat16 import (
    NORM,
    PRODUCT,
    PRODUCT_ADD,
    PRODUCT_GELU,
    PRODUCT_LAYER_NORM,
    ROUND,
    SWIGLU,
    bfloat16_products,
    pack,
    panel_of,
)
from rexit.exporter.graph.passes import tidy

K, N = 64, 48
BLOCK = """
segment (float[1, T, 64] x) => (float[1, T, 64] y) {
  normed = RMSNormalization <axis = -1, epsilon = 0.001> (x, weight)
  gate = MatMul(normed, w_gate)
  up = MatMul(normed, w_up)
  sigmoid = Sigmoid(gate)
  silu = Mul(gate, sigmoid)
  hidden = Mul(silu, up)
  down = MatMul(hidden, w_down)
  y = Add(x, down)
}"""


def _made(text: str = BLOCK) -> ir.Model:
    constants = {"w_gate": weight(K, N), "w_up": weight(K, N, 2), "w_down": weight(N, K, 3), "weight": weight(1, K, 4)[0]}
    return graph(text, constants | {"w_odd": weight(K, 40, 5), "w_back": weight(40, K, 6), "bias": weight(1, K, 7)[0]})


def test_a_block_in_five_nodes_near_the_exact_one(tmp_path: Path) -> None:
    x = with_outlier(7, K)
    x[0, 3] = 0
    exact = run(_made(), {"x": x}, tmp_path)["y"]
    model = tidy(bfloat16_products(_made()))
    assert count(model) == {NORM: 1, PRODUCT: 2, SWIGLU: 1, PRODUCT_ADD: 1}
    assert {name for _, name, _ in model.functions} == {NORM, PRODUCT, SWIGLU, PRODUCT_ADD}
    assert all(value.dtype == ir.DataType.BFLOAT16 for name, value in model.graph.initializers.items() if name != "weight")
    actual = run(model, {"x": x}, tmp_path)["y"]
    assert 1e-4 < error(actual - x, exact - x) < 0.01


def test_an_input_is_rounded_once_and_products_of_rounded_numbers_are_exact(tmp_path: Path) -> None:
    text = """
segment (float[1, T, 64] x) => (float[1, T, 48] a, float[1, T, 48] b, float[1, T, 64] c) {
  a = MatMul(x, w_gate)
  b = MatMul(x, w_up)
  plain = MatMul(a, w_down)
  c = Add(plain, bias)
}"""
    x = with_outlier(5, K)
    model = tidy(bfloat16_products(_made(text)))
    assert count(model) == {ROUND: 2, PRODUCT: 2, PRODUCT_ADD: 1}
    actual = run(model, {"x": x}, tmp_path)
    for name, matrix in (("a", weight(K, N)), ("b", weight(K, N, 2))):
        expected = bfloat16(x).astype(np.float64) @ bfloat16(matrix).astype(np.float64)
        np.testing.assert_allclose(actual[name], expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


ENCODER = """
segment (float[1, T, 64] x) => (float[1, T, 64] z) {
  product = MatMul(x, w_gate)
  inner = Add(product, inner_bias)
  active = Gelu(inner)
  projected = MatMul(active, w_down)
  down = Add(projected, bias)
  mixed = Add(down, x)
  normed = LayerNormalization <axis = -1, epsilon = 0.001> (mixed, weight, bias)
  y = MatMul(normed, w_last)
  z = Add(y, normed)
}"""
ENCODER_FUSED = {ROUND: 1, PRODUCT_GELU: 1, PRODUCT_LAYER_NORM: 1, PRODUCT_ADD: 1}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("", ""), ENCODER_FUSED),
        (("T, 64] z)", "T, 64] z, float[1, T, 64] normed)"), ENCODER_FUSED),
        (("T, 64] z)", "T, 64] z, float[1, T, 64] down)"), {ROUND: 2, PRODUCT_GELU: 1, PRODUCT_ADD: 2}),
        (("T, 64] z)", "T, 64] z, float[1, T, 64] mixed)"), {ROUND: 2, PRODUCT_GELU: 1, PRODUCT_ADD: 2}),
        (("T, 64] z)", "T, 64] z, float[1, T, 48] active)"), {ROUND: 2, PRODUCT_LAYER_NORM: 1, PRODUCT_ADD: 2}),
        (("Add(projected, bias)", "Neg(projected)"), {ROUND: 2, PRODUCT_GELU: 1, PRODUCT: 1, PRODUCT_ADD: 1}),
    ],
)
def test_a_product_and_its_bias_with_what_rounds_them(change: tuple[str, str], expected: dict[str, int], tmp_path: Path) -> None:
    constants = {"w_gate": weight(K, N), "w_down": weight(N, K, 3), "w_last": weight(K, K, 8), "weight": weight(1, K, 4)[0]}
    constants |= {"bias": weight(1, K, 5)[0], "inner_bias": weight(1, N, 6)[0]}
    text, x = ENCODER.replace(*change), with_outlier(7, K)
    model = tidy(bfloat16_products(graph(text, constants)))
    nodes = count(model)
    assert {name: nodes[name] for name in (*ENCODER_FUSED, PRODUCT) if nodes[name]} == expected
    exact, actual = run(graph(text, constants), {"x": x}, tmp_path), run(model, {"x": x}, tmp_path)
    for name in exact:
        assert error(actual[name], exact[name]) < 0.01, name


@pytest.mark.parametrize("output", ["hidden", "silu", "gate", "normed", "down"])
def test_what_is_read_elsewhere_is_not_lost(output: str, tmp_path: Path) -> None:
    width = 48 if output in ("hidden", "silu", "gate") else 64
    text = BLOCK.replace("64] y)", f"64] y, float[1, T, {width}] {output})")
    x = with_outlier(5, K)
    exact, actual = run(_made(text), {"x": x}, tmp_path), run(tidy(bfloat16_products(_made(text))), {"x": x}, tmp_path)
    for name in ("y", output):
        assert error(actual[name], exact[name]) < 0.01, name


def test_a_layer_that_has_no_panels_stays_float32() -> None:
    text = BLOCK.replace("down = MatMul(hidden, w_down)", "down = MatMul(hidden, w_down)\n  odd = MatMul(x, w_odd)").replace(
        "y = Add(x, down)", "back = MatMul(odd, w_back)\n  y = Add(back, down)"
    )
    nodes = count(tidy(bfloat16_products(_made(text))))
    assert (nodes["MatMul"], nodes[PRODUCT] + nodes[PRODUCT_ADD]) == (1, 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("segment (float[1, T, 64] x) => (float[1, T, 40] y) { y = MatMul(x, w_odd) }", "even number of rows (K) and a multiple"),
        ("segment (float[1, T, 64] x) => (float[1, T, 64] y) { y = Add(x, x) }", "bf16: the graph has no linear layer"),
    ],
)
def test_a_graph_without_a_layer_to_round_is_refused(text: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=re.escape(message)):
        bfloat16_products(_made(text))


def test_a_panel_has_pairs_of_rows() -> None:
    matrix = np.arange(4 * 96, dtype=np.float32).reshape(4, 96) % 200  # whole numbers up to 256 are exact
    packed = pack(matrix).astype(np.float32)
    assert packed.shape == (2, 2, 48, 2)
    for row, column in ((0, 0), (1, 0), (2, 47), (3, 48), (3, 95)):
        assert packed[column // 48, row // 2, column % 48, row % 2] == matrix[row, column]
    assert [panel_of(2, n) for n in (64, 1536, 48, 96, 32, 16, 80, 40)] == [64, 64, 48, 48, 32, 16, 16, None]
    assert panel_of(3, 64) is None
