"""Weights with a scale: `embedding_rows_*`, `quantize_linear_int8`, `quantize_weights_int4`.

Token embeddings in int8 with a scale per row, `row = scale * q`, |q| <= 127, or in bfloat16. Looked-up rows are float32.

A table is a constant float32 matrix that a Gather reads rows of. Its other readers keep the float32 matrix.

Linear layers in int8: a scale per token for inputs, a scale per column for weights. Heads stay float32.

    scale[t]  = max |x[t]| / 127
    q[t]      = round(x[t] / scale[t]) + 128            uint8, once for all layers that read x
    y[t, n]   = scale[t] * column[n] * sum_k (q[t, k] - 128) * w[k, n]

1. Inputs' scales are computed at run time, so nothing needs calibration, and a token's result does not depend on its neighbours.
   Weights are rounded by a sample of inputs if there is one (`round_weights`).
2. A single scale for all tokens would follow the outlier that language models put on their first token.
3. The first two formulas are one node, QuantizeRows, of rexit's domain (`functions.py`): in ONNX Runtime's operators,
   QuantizeLinear with one scale per row. ONNX Runtime's MatMulIntegerToFloat multiplies, accumulates in int32 and applies the
   columns' scales.
4. A token of zeros gets a tiny scale and stays zero.

Linear layers with 4-bit weights in blocks along K, using ONNX Runtime's MatMulNBits. Heads stay float32.

    w[k, n] = scale[n, k / BLOCK] * (q[k, n] - 8)        q in 0 … 15, two to a byte, the lower k in the low half

1. The scale is the best of several (`best_scale`).
2. The largest weight of a block maps to -8, the longer side of the range.
3. Accuracy level 4: ONNX Runtime rounds inputs to int8 as well, per token and block.

K must be a multiple of BLOCK.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from rexit.errors import CheckpointError
from rexit.exporter.graph.linear_layers import SAMPLE, Linear, by_input, layers_to_quantize
from rexit.exporter.graph.passes import (
    MICROSOFT,
    Body,
    array,
    call,
    constant,
    define,
    is_constant,
    is_weight,
    parameters,
    replace,
)
from rexit.exporter.graph.rounding import LARGEST, TINY, best_scale, round_weights, rounded


def embedding_rows_int8(model: ir.Model) -> ir.Model:
    """Changes the model in place and returns it."""
    for node, table in _tables(model):
        values, scales = quantize_rows(array(table))
        rows = ir.node("Gather", [constant(model.graph, f"{table.name}.int8", values), node.inputs[1]])
        scale = ir.node("Gather", [constant(model.graph, f"{table.name}.scale", scales), node.inputs[1]])
        cast = ir.node("Cast", [rows.outputs[0]], {"to": ir.DataType.FLOAT})
        replace(model.graph, node, [rows, scale, cast, ir.node("Mul", [cast.outputs[0], scale.outputs[0]])])
    return model


def embedding_rows_bfloat16(model: ir.Model) -> ir.Model:
    """Changes the model in place and returns it."""
    for node, table in _tables(model):
        rounded = constant(model.graph, f"{table.name}.bfloat16", array(table).astype(ml_dtypes.bfloat16))
        rows = ir.node("Gather", [rounded, node.inputs[1]])
        replace(model.graph, node, [rows, ir.node("Cast", [rows.outputs[0]], {"to": ir.DataType.FLOAT})])
    return model


def quantize_rows(table: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Rounds a table [V, H]. Returns int8 [V, H] and scales float32 [V, 1]."""
    scale = np.abs(table).max(1, keepdims=True) / np.float32(LARGEST)
    scale[scale == 0] = 1
    return np.rint(table / scale).astype(np.int8), scale.astype(np.float32)


def _tables(model: ir.Model) -> Iterator[tuple[ir.Node, ir.Value]]:
    for node in list(model.graph):
        if node.op_type == "Gather" and node.attributes.get_int("axis", 0) == 0:
            table, rows = node.inputs
            if table is not None and is_weight(table) and not is_constant(rows):
                yield node, table


ZERO_POINT = 128
NAME = "QuantizeRows"
"""Input x [..., T, K]; outputs uint8 of the same shape and scale [..., T, 1]."""


def quantize_linear_int8(model: ir.Model) -> ir.Model:
    """Changes the model in place and returns it. Raises CheckpointError if there is nothing to quantize."""
    graph = model.graph
    layers = layers_to_quantize(model, "int8")
    define_quantize_rows(model)
    names = {
        "zero": constant(graph, "int8.zero_point", np.array(ZERO_POINT, np.uint8)),
        "one": constant(graph, "int8.one", np.array(1, np.float32)),
    }
    for group in by_input(layers):
        quantized, scale = _quantize(graph, group[0])
        weights = [array(linear.weight) for linear in group]
        # Rounded together, as they share inputs.
        values, columns = round_weights(np.concatenate(weights, 1), group[0].input.meta.get(SAMPLE))
        ends = np.cumsum([weight.shape[1] for weight in weights])[:-1]
        for linear, part, part_columns in zip(group, np.split(values, ends, 1), np.split(columns, ends), strict=True):
            _multiply(graph, linear, quantized, scale, (part, part_columns), names)
    graph.opset_imports[MICROSOFT] = 1
    return model


def define_quantize_rows(model: ir.Model) -> None:
    """QuantizeRows: the first two formulas and rule 4."""
    body, (x,) = Body(), parameters("x")
    largest = body.add("ReduceMax", body.add("Abs", x), body.constant([-1]), keepdims=1)
    bounded = body.add("Max", largest, body.constant(np.float32(TINY)))
    scale = body.add("Mul", bounded, body.constant(np.float32(1 / LARGEST)))
    # QuantizeLinear takes the scales as a vector, with as many zero points.
    flat = body.add("Reshape", scale, body.constant([-1]))
    zeros = body.add("Expand", body.constant(np.uint8(ZERO_POINT)), body.add("Shape", flat))
    quantized = body.add("QuantizeLinear", x, flat, zeros, axis=-2)
    define(model, NAME, [x], body, [quantized, scale])


def _quantize(graph: ir.Graph, first: Linear) -> tuple[ir.Value, ir.Value]:
    """x as uint8, and its scale per token [..., T, 1], computed before the first layer that reads x."""
    x = first.node.inputs[0]  # not `input`: it may be the output of a layer that was replaced
    assert x is not None
    if x.shape is None or len(x.shape) < 2 or any(size != 1 for size in x.shape[:-2]):
        raise CheckpointError(f"int8: {first.weight.name} multiplies a value of shape {x.shape}, expected [T, K] or [1, T, K]")
    node = call(NAME, [x], outputs=2)
    quantized, scale = node.outputs
    quantized.name, scale.name = f"{x.name}.int8", f"{x.name}.scale"
    graph.insert_before(first.node, node)
    return quantized, scale


def _multiply(
    graph: ir.Graph,
    linear: Linear,
    quantized: ir.Value,
    scale: ir.Value,
    rounded: Sequence[NDArray[Any]],
    names: dict[str, ir.Value],
) -> None:
    values, columns = (np.ascontiguousarray(numbers) for numbers in rounded)
    weight = constant(graph, f"{linear.weight.name}.int8", values)
    column = constant(graph, f"{linear.weight.name}.scale", columns)
    product = ir.node("MatMulIntegerToFloat", [quantized, weight, names["one"], column, names["zero"]], domain=MICROSOFT)
    scaled = ir.node("Mul", [product.outputs[0], scale])
    replace(graph, linear.node, [product, scaled])


BLOCK = 32
_CLIPS = np.linspace(0.7, 1.1, 9, dtype=np.float32)


def quantize_weights_int4(model: ir.Model) -> ir.Model:
    """Changes the model in place and returns it. Raises CheckpointError for a weight that is not divisible into blocks."""
    for linear in layers_to_quantize(model, "int4", BLOCK):
        _multiply_blocks(model.graph, linear)
    model.graph.opset_imports[MICROSOFT] = 1
    return model


def quantize_blocks(weight: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Rounds a weight [K, N]. Returns uint8 [N, K / BLOCK, BLOCK / 2] for MatMulNBits and scales float32 [N, K / BLOCK]."""
    blocks = weight.T.reshape(weight.shape[1], -1, BLOCK)
    outermost = np.take_along_axis(blocks, np.abs(blocks).argmax(2, keepdims=True), 2)
    scales = (outermost * (clip / -8) for clip in _CLIPS)
    scale = best_scale(blocks, (np.where(tried == 0, np.float32(1), tried) for tried in scales), 2)
    values = (rounded(blocks, scale) + 8).astype(np.uint8)
    packed: NDArray[np.uint8] = np.bitwise_or(values[..., 0::2], np.left_shift(values[..., 1::2], 4), dtype=np.uint8)
    return packed, scale[..., 0]


def _multiply_blocks(graph: ir.Graph, linear: Linear) -> None:
    rows, columns = array(linear.weight).shape
    packed, scales = quantize_blocks(array(linear.weight))
    weight = constant(graph, f"{linear.weight.name}.int4", packed)
    scale = constant(graph, f"{linear.weight.name}.scale", scales)
    attributes = {"K": rows, "N": columns, "bits": 4, "block_size": BLOCK, "accuracy_level": 4}
    product = ir.node("MatMulNBits", [linear.input, weight, scale], attributes, domain=MICROSOFT)
    replace(graph, linear.node, [product])
