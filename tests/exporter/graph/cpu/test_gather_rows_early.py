"""Rows gathered early: the same answers, the last layer for N rows alone, in every family; otherwise an unchanged graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from builders.models.checkpoints import FAMILIES
from builders.onnx_graphs.graphs import Arrays, assert_same, count, graph, weight
from builders.onnx_graphs.segments import feed, traced
from rexit.exporter.graph.cpu.gather_rows_early import gather_rows_early
from rexit.exporter.graph.passes import tidy
from running.fast import fast

LAYER = """
segment (float[1, T, 64] x, int64[N] rows) => (float[N, 2] logits, float[1, T, 64] kept) {
  normed = LayerNormalization <axis = -1> (x, scale)
  kept = MatMul(normed, wk)
  query = MatMul(normed, wq)
  turned = Transpose <perm = [0, 2, 1]> (kept)
  products = MatMul(query, turned)
  shares = Softmax <axis = -1> (products)
  mixed = MatMul(shares, kept)
  next = Add(x, mixed)
  zero = Constant <value_int = 0> ()
  hidden = Gather <axis = 0> (next, zero)
  read = Gather <axis = 0> (hidden, rows)
  logits = MatMul(read, head)
}"""


def _layer() -> tuple[ir.Model, Arrays]:
    constants = {"scale": np.ones(64, np.float32), "wk": weight(64, 64), "wq": weight(64, 64, 2), "head": weight(64, 2, 3)}
    model = graph(LAYER, constants)
    ir.passes.common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    return model, {"x": weight(9, 64, 4)[None], "rows": np.array([2, 8])}


def _sizes(model: ir.Model, op: str, axis: int) -> list[str]:
    return [str(node.outputs[0].shape[axis]) for node in model.graph if node.op_type == op]  # type: ignore[index]


@pytest.mark.medium
@pytest.mark.parametrize("family", fast(FAMILIES, "llama"))
def test_last_layer_of_every_family(family: str, tmp_path: Path) -> None:
    before, model = (traced(family, k=1, begin=2, end=4) for _ in range(2))
    model = tidy(gather_rows_early(model))
    assert_same(before, model, feed(before, 5, [4, 1, 7]), tmp_path, atol=2e-5)
    # Keys and values of the last layer for all tokens, everything else of it for the rows: at most two products are whole.
    weights = [node for node in model.graph if node.op_type in ("MatMul", "Gemm") and node.inputs[1].const_value is not None]  # type: ignore[union-attr]
    sizes = ["N" in str(node.outputs[0].shape) for node in weights]
    first = sizes.index(True)
    assert sum(not narrow for narrow in sizes[first:]) <= 2, [str(node.outputs[0].shape) for node in weights]
    assert sum(sizes) >= 3


def test_rows_of_a_small_graph(tmp_path: Path) -> None:
    (before, arrays), (model, _) = _layer(), _layer()
    assert_same(before, gather_rows_early(model), arrays, tmp_path, rtol=1e-5, atol=1e-5)
    assert _sizes(model, "MatMul", -2) == ["T", "N", "N", "N", "N"]  # kept, query, products, mixed, logits
    assert count(model)["Gather"] == 3  # the batch axis; normed and x at the rows


def test_a_mean_over_the_tokens_stays_whole(tmp_path: Path) -> None:
    text = """
segment (float[T, 64] x, int64[N] rows) => (float[N, 2] logits) {
  axes = Constant <value_ints = [0]> ()
  mean = ReduceMean(x, axes)
  centred = Sub(x, mean)
  soft = Softmax <axis = 0> (centred)
  bent = Tanh(soft)
  read = Gather <axis = 0> (bent, rows)
  logits = MatMul(read, head)
}"""
    before, model = (graph(text, {"head": weight(64, 2)}) for _ in range(2))
    ir.passes.common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    assert_same(before, gather_rows_early(model), {"x": weight(7, 64, 2), "rows": np.array([6, 0])}, tmp_path, rtol=1e-6)
    assert _sizes(model, "Softmax", 0) == ["T"] and _sizes(model, "Tanh", 0) == ["N"]
