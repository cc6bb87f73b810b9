"""Looked-up tables in fewer bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from builders.onnx_graphs.function_graphs import bfloat16
from builders.onnx_graphs.graphs import count, error, graph, run, weight
from rexit.exporter.graph.cpu.quantized_weights import embedding_rows_bfloat16, embedding_rows_int8

TEXT = "segment (int64[1, T] tokens) => (float[1, T, 16] y) { y = Gather(table, tokens) }"
TOKENS = np.array([[3, 0, 3, 49]])


def _table() -> np.ndarray:
    table = weight(16, 50).T.copy()  # rows of different sizes
    table[0] = 0
    return table


def test_int8_has_a_scale_per_row(tmp_path: Path) -> None:
    table = _table()
    actual = run(embedding_rows_int8(graph(TEXT, {"table": table})), {"tokens": TOKENS}, tmp_path)["y"]
    expected = table[TOKENS]
    assert (np.abs(actual - expected).max(-1) <= np.abs(expected).max(-1) / 254 * 1.0001).all() and error(actual, expected) < 0.01


def test_bfloat16_is_the_nearest(tmp_path: Path) -> None:
    table = _table()
    actual = run(embedding_rows_bfloat16(graph(TEXT, {"table": table})), {"tokens": TOKENS}, tmp_path)["y"]
    np.testing.assert_array_equal(actual, bfloat16(table[TOKENS]))


def test_other_gathers_stay() -> None:
    text = """
segment (float[1, T, 16] x, int64[1, T] n) => (float[T, 16] y, float[50, 1, T] z) {
  y = Gather <axis = 0> (x, zero)
  z = Gather <axis = 1> (table, n)
}"""
    nodes = count(embedding_rows_int8(graph(text, {"table": _table(), "zero": np.array(0)})))
    assert nodes["Gather"] == 2 and nodes["Cast"] == 0
