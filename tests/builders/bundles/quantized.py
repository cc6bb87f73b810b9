"""The tiny model's segments with 8-bit weights: every MatMul by a matrix of weights becomes MatMulInteger over rows of
activations quantized as they come, each with its own scale. Standard ops only, as an exported `int8` variant has them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

ZERO_POINT = 128


def quantized(model: onnx.ModelProto) -> onnx.ModelProto:
    """The head stays float32; everything else follows two rules.

    1. W [K, N] becomes int8 with one scale a column, absmax / 127.
    2. X [T, K] becomes uint8 with zero point 128 and one scale a row, absmax / 127; X W is MatMulInteger times both scales.
    """
    weights: dict[str, NDArray[Any]] = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    nodes: list[Any] = []
    added: dict[str, NDArray[Any]] = {
        "q.zero": np.array(ZERO_POINT, np.uint8),
        "q.shift": np.array(ZERO_POINT, np.float32),
        "q.top": np.array(127, np.float32),
        "q.least": np.array(1e-8, np.float32),
    }
    for node in model.graph.node:
        if node.op_type != "MatMul" or node.input[1] not in weights or node.input[1] == "head":
            nodes.append(node)
            continue
        x, w = node.input
        out = node.output[0]
        scale = np.asarray(np.abs(weights[w]).max(0) / 127)
        added[f"{w}.int8"] = np.asarray(np.round(weights.pop(w) / scale), np.int8)
        added[f"{w}.scale"] = scale.astype(np.float32)

        def op(kind: str, *inputs: str, name: str, **attributes: Any) -> str:
            nodes.append(helper.make_node(kind, inputs, [name], **attributes))
            return name

        top = op("ReduceMax", op("Abs", x, name=f"{out}.abs"), name=f"{out}.top", axes=[-1], keepdims=1)
        step = op("Max", op("Div", top, "q.top", name=f"{out}.raw"), "q.least", name=f"{out}.step")
        steps = op("Round", op("Div", x, step, name=f"{out}.steps"), name=f"{out}.round")
        level = op("Cast", op("Add", steps, "q.shift", name=f"{out}.level"), name=f"{out}.uint8", to=TensorProto.UINT8)
        sums = op("MatMulInteger", level, f"{w}.int8", "q.zero", name=f"{out}.sums")
        rows = op("Mul", op("Cast", sums, name=f"{out}.float", to=TensorProto.FLOAT), step, name=f"{out}.rows")
        op("Mul", rows, f"{w}.scale", name=out)
    initializers = [numpy_helper.from_array(value, name) for name, value in {**weights, **added}.items()]
    graph = helper.make_graph(nodes, model.graph.name, model.graph.input, model.graph.output, initializers)
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
