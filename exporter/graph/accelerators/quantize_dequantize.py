"""Rewrites a float16 (half) graph so that ONNX Runtime's CPU rounds every half: float32 operators with rounded results.

ONNX Runtime has few half kernels for the CPU. By default it computes in float32 and rounds only where it must, so that a sum that
overflows in half, and is infinite on a GPU, goes unnoticed. Here

1. an operator with half results computes in float32, and two Casts, to half and back, round each result;
2. half constants and half inputs are read through a Cast;
3. half outputs are Casts of rounded values.

So products are accumulated in float32 and rounded once, as on tensor cores. No accelerator guarantees the order of a sum.

Linear layers with 4-bit weights in blocks along K, for TensorRT: a blocked DequantizeLinear before each product.

    w[k, n] = scale[k / BLOCK, n] * q[k, n]        q in -8 … 7, scale > 0 and exact in float16

1. The scale is the best of several (`four_bits`).
2. Symmetric, without a zero point; inputs and products stay float16. Heads do not change.

K must be a multiple of BLOCK.

Linear layers in int8 with fixed scales, by QuantizeLinear and DequantizeLinear, which TensorRT fuses into one product.

    y = DequantizeLinear(QuantizeLinear(x, s)) @ DequantizeLinear(w, columns)

1. An input has one scale for all tokens, chosen on sampled rows (`fixed_scale`, `rexit.exporter.graph.activations`). Numbers
   beyond 127 scales saturate.
2. Weights have a scale per column and are rounded by the same rows (`round_weights`).
3. Layers with the same input share its QuantizeLinear. They stay float32, to become half, if rounding loses more than MAX_LOSS: a
   single `down` that reads an outlier token can lose as much as all other layers together.
4. Symmetric, zero points 0; biases, heads and attention's own products do not change.
5. Scales are exact in float16, so they do not change when the graph becomes half.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from rexit.exporter.graph.linear.fixed_scale import clipping_bound, rounded_by
from rexit.exporter.graph.linear.four_bits import best_scale, rounded
from rexit.exporter.graph.linear.linear import SAMPLE, Linear, by_input, layers_to_quantize
from rexit.exporter.graph.linear.round_weights import LARGEST, rounded_weights
from rexit.exporter.graph.passes import FLOAT, HALF, array, cast, constant, describe


def round_halves(model: ir.Model) -> ir.Model:
    """Changes the model in place and returns it. Names and types of inputs and outputs stay."""
    graph = model.graph
    nodes = list(graph)
    outputs = {value: n for n, value in enumerate(graph.outputs)}
    for value in (*graph.inputs, *graph.initializers.values()):
        if value.dtype == HALF and (readers := list(value.uses())):
            wide = cast(value, FLOAT, "wide")
            graph.insert_before(nodes[0], wide)
            for reader, n in readers:
                reader.replace_input_with(n, wide.outputs[0])
    for node in nodes:
        if node.op_type == "Cast" and node.attributes.get_int("to", 0) == HALF:
            node.attributes["to"] = ir.AttrInt64("to", FLOAT)
        for value in node.outputs:
            if value.dtype != HALF:
                continue
            readers, name = list(value.uses()), value.name
            value.dtype = FLOAT
            narrow = cast(value, HALF, "rounded")
            wide = cast(narrow.outputs[0], FLOAT, "wide")
            graph.insert_after(node, [narrow, wide])
            for reader, n in readers:
                reader.replace_input_with(n, wide.outputs[0])
            if value in outputs:
                value.name, narrow.outputs[0].name = f"{name}.exact", name
                graph.outputs[outputs[value]] = narrow.outputs[0]
    return model


BLOCK = 64
_CLIPS = np.linspace(0.7, 1.0, 7, dtype=np.float32)


def dequantize_blocks_int4(model: ir.Model) -> ir.Model:
    """Changes the model in place and returns it. Raises CheckpointError for a weight that is not divisible into blocks."""
    for linear in layers_to_quantize(model, "int4", BLOCK):
        _dequantize(model.graph, linear)
    return model


def quantize_blocks(weight: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Rounds a weight [K, N]. Returns integers in -8 … 7 as float32 [K, N], and scales float32 [K / BLOCK, N]."""
    blocks = weight.reshape(-1, BLOCK, weight.shape[1])
    largest = np.abs(blocks).max(1, keepdims=True)
    scale = best_scale(blocks, (half_scale(largest * clip, 7.5) for clip in _CLIPS), 1)
    return rounded(blocks, scale).reshape(weight.shape), scale[:, 0]


def _dequantize(graph: ir.Graph, linear: Linear) -> None:
    values, scales = quantize_blocks(array(linear.weight))
    name = linear.weight.name
    small = constant(graph, f"{name}.int4", values.astype(ml_dtypes.int4))
    scale = constant(graph, f"{name}.scale", scales)
    dequantize = ir.node("DequantizeLinear", [small, scale], {"axis": 0, "block_size": BLOCK})
    linear.node.replace_input_with(1, describe(dequantize.outputs[0], f"{name}.dequantized", linear.weight))
    graph.insert_before(linear.node, [dequantize])


MAX_LOSS = 0.003
"""Maximum share of a token's squared output that rounding may lose on average. Our choice, measured in
docs/notes/precision/tensorrt.md."""

Floats = NDArray[np.float32]


def quantize_dequantize_int8(model: ir.Model, max_loss: float = MAX_LOSS) -> ir.Model:
    """Changes the model, whose linear inputs have samples in their `meta`, in place and returns it. Raises CheckpointError if
    there is nothing to quantize."""
    graph = model.graph
    layers = layers_to_quantize(model, "int8")
    zero = constant(graph, "int8.zero", np.zeros((), np.int8))
    for group in by_input(layers):
        entry = group[0].input
        assert SAMPLE in entry.meta, f"{entry.name} was not observed"
        sample, weights = entry.meta[SAMPLE], [array(linear.weight) for linear in group]
        weight = np.concatenate(weights, 1)  # rounded together, as they share inputs
        step = half_scale(np.array(clipping_bound(sample)), LARGEST)
        columns = half_scale(np.abs(weight).max(0), LARGEST)
        values = rounded_weights(weight, columns, sample, float(step))
        if _loss(sample, weight, step, values * columns) > max_loss:
            continue
        scale = constant(graph, f"{entry.name}.scale", step)
        quantize = ir.node("QuantizeLinear", [entry, scale, zero])
        dequantize = ir.node("DequantizeLinear", [quantize.outputs[0], scale, zero])
        describe(quantize.outputs[0], f"{entry.name}.int8", entry, zero.dtype)
        describe(dequantize.outputs[0], f"{entry.name}.dequantized", entry)
        graph.insert_before(group[0].node, [quantize, dequantize])
        ends = np.cumsum([part.shape[1] for part in weights])[:-1]
        for linear, part, part_columns in zip(group, np.split(values, ends, 1), np.split(columns, ends), strict=True):
            linear.node.replace_input_with(0, dequantize.outputs[0])
            linear.node.replace_input_with(1, _weight(graph, linear, part, part_columns))
    return model


def half_scale(largest: NDArray[np.float32], over: float) -> NDArray[np.float32]:
    """The smallest float16 that is at least largest / over; 1 where that is zero. float32, in the shape of `largest`."""
    exact = np.asarray(largest, np.float32) / np.float32(over)
    scale = exact.astype(np.float16)
    scale = np.where(scale.astype(np.float32) < exact, np.nextafter(scale, np.float16(np.inf)), scale)
    scale[exact == 0] = 1
    return scale.astype(np.float32)


def _loss(x: Floats, weight: Floats, step: Floats, rounded: Floats) -> float:
    exact = x @ weight
    approximate = rounded_by(x, np.float32(step)) @ rounded
    size = np.square(exact).sum(1)
    return float((np.square(approximate - exact).sum(1)[size > 0] / size[size > 0]).mean()) if size.any() else 0.0


def _weight(graph: ir.Graph, linear: Linear, values: NDArray[np.int8], columns: Floats) -> ir.Value:
    reader, weight = linear.node, linear.weight
    small = constant(graph, f"{weight.name}.int8", np.ascontiguousarray(values))
    scale = constant(graph, f"{weight.name}.scale", np.ascontiguousarray(columns))
    zeros = constant(graph, f"{weight.name}.zeros", np.zeros(len(columns), np.int8))
    dequantize = ir.node("DequantizeLinear", [small, scale, zeros], {"axis": 1})
    out = describe(dequantize.outputs[0], f"{weight.name}.dequantized", weight)
    graph.insert_before(reader, [dequantize])
    return out
