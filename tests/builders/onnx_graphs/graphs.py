"""Graphs of a few nodes for the tests of passes, built and run in one line."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]


def graph(text: str, constants: Arrays, opset: int = 23) -> ir.Model:
    """A model in ONNX's text form; the constants are added as initializers."""
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]>\n{text}')
    for name, array in constants.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(model))


def run(model: ir.Model, feed: Arrays, folder: Path, **config: str) -> Arrays:
    """All outputs, by ONNX Runtime; the model goes over the disk, as a segment does. config: entries of `session`."""
    ir.save(model, folder / "graph.onnx", external_data="graph.onnx.data")
    onnx.checker.check_model(str(folder / "graph.onnx"))
    options = ort.SessionOptions()
    for name, value in config.items():
        options.add_session_config_entry(f"session.{name}", value)
    session = ort.InferenceSession(folder / "graph.onnx", options, providers=["CPUExecutionProvider"])
    return dict(zip((o.name for o in session.get_outputs()), session.run(None, feed), strict=True))


def assert_same(before: ir.Model, after: ir.Model, feed: Arrays, folder: Path, rtol: float = 0, atol: float = 0) -> None:
    """All outputs are equal: to the bit, or up to a tolerance."""
    expected, actual = run(before, feed, folder), run(after, feed, folder)
    assert actual.keys() == expected.keys()
    for name, output in expected.items():
        np.testing.assert_allclose(actual[name], output, rtol, atol, err_msg=name)


def count(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


def with_outlier(tokens: int, size: int, seed: int = 0) -> NDArray[np.float32]:
    """[1, T, K] of unit scale whose first token has the outlier that language models put there."""
    x = np.random.default_rng(seed).standard_normal((1, tokens, size)).astype(np.float32)
    x[0, 0, 5] = 300.0
    return x


def weight(rows: int, columns: int, seed: int = 1) -> NDArray[np.float32]:
    """[K, N], columns of different sizes."""
    random = np.random.default_rng(seed)
    return (random.standard_normal((rows, columns)) * np.geomspace(0.01, 1, columns)).astype(np.float32)


def error(actual: NDArray[Any], expected: NDArray[Any]) -> float:
    """Mean |difference| over mean |expected|."""
    return float(np.abs(actual - expected).mean() / np.abs(expected).mean())
