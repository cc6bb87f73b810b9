"""Row-wise work around int8 products in one node: the same numbers; other nodes stay."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import pytest

from builders.onnx_graphs.graphs import assert_same, count, graph, weight, with_outlier
from rexit.exporter.graph.cpu.fuse_rows import ADD_LAYER_NORM, GEGLU, GELU, LAYER_NORM, NORM, SCALE_ADD, SWIGLU, fuse_rows
from rexit.exporter.graph.cpu.quantized_weights import NAME as QUANTIZE
from rexit.exporter.graph.cpu.quantized_weights import quantize_linear_int8
from rexit.exporter.graph.passes import tidy

K, N = 64, 48
NORMED = "normed = RMSNormalization <axis = -1, epsilon = 0.001> (x, weight)"
BLOCK = f"""
segment (float[1, T, 64] x, float[1, T, 64] other) => (float[1, T, 64] y) {{
  {NORMED}
  gate = MatMul(normed, w_gate)
  up = MatMul(normed, w_up)
  sigmoid = Sigmoid(gate)
  silu = Mul(gate, sigmoid)
  hidden = Mul(silu, up)
  down = MatMul(hidden, w_down)
  y = Add(x, down)
}}"""
FUSED = {NORM: 1, SWIGLU: 1, SCALE_ADD: 1}
QUANTIZING = (NORM, LAYER_NORM, ADD_LAYER_NORM, SWIGLU, GEGLU, GELU, QUANTIZE)
GATE = "sigmoid = Sigmoid(gate)\n  silu = Mul(gate, sigmoid)"
PLAIN_NORM = ("RMSNormalization <axis = -1, epsilon = 0.001>", "LayerNormalization <axis = -1, epsilon = 0.001>")
ENCODER = """
segment (float[1, T, 64] x, float[1, T, 64] other) => (float[1, T, 64] y) {
  mixed = Add(x, other)
  normed = LayerNormalization <axis = -1, epsilon = 0.001> (mixed, weight, column)
  smoothed = Mul(normed, factor)
  product = MatMul(smoothed, w_up)
  inner = Add(product, bias)
  active = Gelu(inner)
  projected = MatMul(active, w_down)
  down = Add(column, projected)
  y = Add(down, normed)
}"""
DIVIDED = ("projected = MatMul(active, w_down)", "scaled = Mul(active, bias)\n  projected = MatMul(scaled, w_down)")
ENCODER_FUSED = {ADD_LAYER_NORM: 1, GELU: 1, SCALE_ADD: 2}


def _quantized(text: str) -> ir.Model:
    constants = {"w_gate": weight(K, N), "w_up": weight(K, N, 2), "w_down": weight(N, K, 3), "weight": weight(1, K, 4)[0]}
    constants |= {
        "bias": weight(1, N, 5)[0],
        "column": weight(1, K, 6)[0],
        "factor": weight(1, K, 9)[0] + 1,
        "w_single": weight(K, 1, 7),
        "w_again": weight(N, K, 8),
    }
    return quantize_linear_int8(graph(text, constants))


def _changed(*changes: tuple[str, str], text: str = BLOCK) -> str:
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return text


def test_a_block_in_three_nodes_with_the_same_numbers(tmp_path: Path) -> None:
    feed = {"x": with_outlier(7, K), "other": with_outlier(7, K, 2)}
    feed["x"][0, 3] = 0
    model = tidy(fuse_rows(_quantized(BLOCK)))
    assert {node.op_type for node in model.graph} == {NORM, SWIGLU, SCALE_ADD, "MatMulIntegerToFloat"}
    assert {name for _, name, _ in model.functions} == {NORM, SWIGLU, SCALE_ADD, QUANTIZE}
    assert_same(tidy(_quantized(BLOCK)), model, feed, tmp_path)


SWAPPED = (("Mul(gate, sigmoid)", "Mul(sigmoid, gate)"), ("Mul(silu, up)", "Mul(up, silu)"), ("Add(x, down)", "Add(down, x)"))


@pytest.mark.medium
@pytest.mark.parametrize(
    ("left", "changes"),
    [
        ({}, SWAPPED),
        ({}, (("axis = -1", "axis = 2"),)),
        ({}, (("Add(x, down)", "Add(column, down)"),)),
        ((NORM,), (("Add(x, down)", "Add(normed, down)"),)),
        ({NORM: 0, LAYER_NORM: 1}, (PLAIN_NORM,)),
        ((NORM,), (PLAIN_NORM, ("Add(x, down)", "Add(normed, down)"))),
        ({SWIGLU: 0, GEGLU: 1}, ((GATE, "silu = Gelu(gate)"),)),
        ({SWIGLU: 0, GEGLU: 1}, ((GATE, 'silu = Gelu <approximate = "tanh"> (gate)'),)),
        ((SWIGLU,), ((GATE, "silu = Gelu(gate)"), ("up = MatMul(normed, w_up)", "up = MatMul(other, w_up)"))),
        ((NORM,), (("axis = -1, epsilon = 0.001> (x, weight)", "axis = -2> (x, other)"), ("[1, T, 64] other", "[T, 64] other"))),
        ((SWIGLU,), (("Sigmoid(gate)", "Sigmoid(up)"),)),
        ((SWIGLU,), (("Mul(gate, sigmoid)", "Mul(gate, gate)"),)),
        ((SWIGLU,), (("up = MatMul(normed, w_up)", "up = MatMul(other, w_up)"),)),
        ((SWIGLU,), (("up = MatMul(normed, w_up)", "up = MatMul(normed, w_single)"),)),
        ({SWIGLU: 0, SCALE_ADD: 2}, (("up = MatMul(normed, w_up)", "plain = MatMul(normed, w_up)\n  up = Add(plain, bias)"),)),
        ((SWIGLU,), (("=> (float[1, T, 64] y)", "=> (float[1, T, 64] y, float[1, T, 48] hidden)"),)),
        ((SWIGLU,), (("=> (float[1, T, 64] y)", "=> (float[1, T, 64] y, float[1, T, 48] up)"),)),
        ((SCALE_ADD,), (("Add(x, down)", "Add(down, down)"),)),
        ((SCALE_ADD,), (("Add(x, down)", "Sub(x, down)"),)),
        ((SCALE_ADD,), (("y = Add(x, down)", "normal = RMSNormalization(down, weight)\n  y = Add(x, normal)"),)),
    ],
)
def test_what_fits_and_what_stays(
    left: tuple[str, ...] | dict[str, int], changes: tuple[tuple[str, str], ...], tmp_path: Path
) -> None:
    _check(_changed(*changes), FUSED | (left if isinstance(left, dict) else dict.fromkeys(left, 0)), tmp_path)


@pytest.mark.parametrize(
    ("change", "changes"),
    [
        ({}, ()),
        ({}, (("Mul(normed, factor)", "Mul(factor, normed)"), ("Gelu(", 'Gelu <approximate = "tanh"> ('))),
        ({}, (("  smoothed = Mul(normed, factor)\n", ""), ("MatMul(smoothed", "MatMul(normed"))),
        ({}, (("=> (float[1, T, 64] y)", "=> (float[1, T, 64] y, float[1, T, 64] normed)"),)),
        ({ADD_LAYER_NORM: 0}, (("mixed = Add(x, other)", "mixed = Add(x, column)"),)),
        ({ADD_LAYER_NORM: 0}, (("Mul(normed, factor)", "Mul(normed, other)"),)),
        ({ADD_LAYER_NORM: 0}, (("=> (float[1, T, 64] y)", "=> (float[1, T, 64] y, float[1, T, 64] mixed)"),)),
        ({GELU: 0}, (("=> (float[1, T, 64] y)", "=> (float[1, T, 64] y, float[1, T, 48] active)"),)),
        ({GELU: 0}, (("Gelu(inner)", "Tanh(inner)"),)),
        ({}, (DIVIDED,)),
        ({GELU: 0}, (DIVIDED, ("Mul(active, bias)", "Mul(active, inner)"))),
    ],
)
def test_a_block_of_an_encoder(change: dict[str, int], changes: tuple[tuple[str, str], ...], tmp_path: Path) -> None:
    _check(_changed(*changes, text=ENCODER), ENCODER_FUSED | change, tmp_path)


def _check(text: str, expected_nodes: dict[str, int], tmp_path: Path) -> None:
    """Whether the fused graph of a text has these nodes, and the same numbers."""
    model = tidy(fuse_rows(_quantized(text)))
    nodes = count(model)
    assert {name: nodes[name] for name in expected_nodes} == expected_nodes
    assert sum(nodes[name] for name in QUANTIZING) == count(_quantized(text))[QUANTIZE]
    feed = {"x": with_outlier(5, K), "other": with_outlier(5, K, 2)}
    if "[T, 64] other" in text:
        feed["other"] = feed["other"][0]
    assert_same(tidy(_quantized(text)), model, feed, tmp_path)
