"""Linear layers in 8 bits with fixed scales, using QuantizeLinear and DequantizeLinear, which TensorRT fuses into one product.

    y = DequantizeLinear(QuantizeLinear(x, s)) @ DequantizeLinear(w, columns)

1. The input has one scale for all tokens: the largest magnitude seen on training prompts divided by the type's largest number
   (127 for int8, 448 for float8 E4M3); what is beyond it saturates. `rexit.exporter.graph.ranges` finds it.
2. Weights are stored in 8 bits with a scale per column.
3. Layers that read the same input share its QuantizeLinear.
4. Symmetric, zero points 0; biases, heads and attention's own products are not changed.
5. Scales are exact in float16, so they do not change when the graph becomes half.
"""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from rexit.errors import CheckpointError
from rexit.exporter.graph.precision.linear import array, by_input, constant, linears

LARGEST_MAGNITUDE = "largest_magnitude"
"""Key in the `meta` of a linear layer's input: float, seen on training prompts."""


@dataclass(frozen=True)
class Kind:
    """An 8-bit type: its name, its largest number, its NumPy type."""

    name: str
    largest: float
    dtype: type


INT8 = Kind("int8", 127.0, np.int8)
FP8 = Kind("fp8", 448.0, ml_dtypes.float8_e4m3fn)


def quantize_dequantize_int8(model: ir.Model) -> ir.Model:
    """Changes the model in place and returns it. Raises CheckpointError if there is nothing to quantize."""
    return _insert(model, INT8)


def quantize_dequantize_fp8(model: ir.Model) -> ir.Model:
    """Changes the model in place and returns it. Raises CheckpointError if there is nothing to quantize."""
    return _insert(model, FP8)


def half_scale(largest: NDArray[np.float32], over: float) -> NDArray[np.float32]:
    """The smallest float16 that is at least largest / over; 1 where that is zero. float32, in the shape of `largest`."""
    exact = np.asarray(largest, np.float32) / np.float32(over)
    scale = exact.astype(np.float16)
    scale = np.where(scale.astype(np.float32) < exact, np.nextafter(scale, np.float16(np.inf)), scale)
    scale[exact == 0] = 1
    return scale.astype(np.float32)


def _insert(model: ir.Model, kind: Kind) -> ir.Model:
    graph = model.graph
    found = linears(model)
    if not found:
        raise CheckpointError(f"{kind.name}: the graph has no linear layer with a constant weight")
    zero = constant(graph, f"{kind.name}.zero", np.zeros((), kind.dtype))
    for group in by_input(found):
        entry = group[0].input
        assert LARGEST_MAGNITUDE in entry.meta, f"{entry.name} was not observed"
        step = half_scale(np.array([entry.meta[LARGEST_MAGNITUDE]]), kind.largest)[0]
        scale = constant(graph, f"{entry.name}.scale", np.array(step, np.float32))
        quantize = ir.node("QuantizeLinear", [entry, scale, zero])
        dequantize = ir.node("DequantizeLinear", [quantize.outputs[0], scale, zero])
        _like(quantize.outputs[0], entry, f"{entry.name}.{kind.name}", zero.dtype)
        _like(dequantize.outputs[0], entry, f"{entry.name}.dequantized", entry.dtype)
        graph.insert_before(group[0].node, [quantize, dequantize])
        for one in group:
            one.node.replace_input_with(0, dequantize.outputs[0])
            one.node.replace_input_with(1, _weight(graph, one.node, one.weight, kind))
    return model


def _weight(graph: ir.Graph, reader: ir.Node, weight: ir.Value, kind: Kind) -> ir.Value:
    numbers = array(weight)
    columns = half_scale(np.abs(numbers).max(0), kind.largest)
    scaled = numbers / columns
    values = np.rint(scaled).astype(np.int8) if kind is INT8 else scaled.astype(kind.dtype)
    small = constant(graph, f"{weight.name}.{kind.name}", values)
    scale = constant(graph, f"{weight.name}.scale", columns)
    zeros = constant(graph, f"{weight.name}.zeros", np.zeros(len(columns), kind.dtype))
    dequantize = ir.node("DequantizeLinear", [small, scale, zeros], {"axis": 1})
    _like(dequantize.outputs[0], weight, f"{weight.name}.dequantized", weight.dtype)
    graph.insert_before(reader, [dequantize])
    return dequantize.outputs[0]


def _like(value: ir.Value, model: ir.Value, name: str, dtype: ir.DataType | None) -> None:
    assert dtype is not None
    value.name, value.shape, value.type = name, model.shape, ir.TensorType(dtype)
