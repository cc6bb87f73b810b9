"""Linear layers in 8 bits with fixed scales, using QuantizeLinear and DequantizeLinear, which TensorRT fuses into one product.

    y = DequantizeLinear(QuantizeLinear(x, s)) @ DequantizeLinear(w, columns)

1. The input has one scale for all tokens, chosen on sampled rows (`rexit.exporter.graph.activations`); what is beyond the type's
   largest number (127 for int8, 448 for float8 E4M3) saturates. int8: `fixed_scale`. float8, which is as exact for small numbers
   as for large ones: twice the largest magnitude of the sample.
2. Weights are stored in 8 bits with a scale per column; int8 ones are rounded by the same rows (`round_weights`).
3. Layers that read the same input share its QuantizeLinear. In int8 they stay as they are, to become half, where rounding loses
   more than MOST_LOST: a single `down` that reads an outlier token can lose as much as all other layers together.
4. Symmetric, zero points 0; biases, heads and attention's own products are not changed.
5. Scales are exact in float16, so they do not change when the graph becomes half.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from rexit.errors import CheckpointError
from rexit.exporter.graph.passes.nodes import array, constant
from rexit.exporter.graph.precision.fixed_scale import largest_kept, rounded_by
from rexit.exporter.graph.precision.linear import SAMPLE, Linear, by_input, linears
from rexit.exporter.graph.precision.round_weights import rounded_weights

MOST_LOST = 0.003
"""Of a token's squared output, on average over the sample. Our choice; docs/notes/precision/tensorrt.md has what it gives."""
_MARGIN = 2

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Kind:
    """An 8-bit type: its name, its largest number, its NumPy type."""

    name: str
    largest: float
    dtype: type


INT8 = Kind("int8", 127.0, np.int8)
FP8 = Kind("fp8", 448.0, ml_dtypes.float8_e4m3fn)


def quantize_dequantize_int8(
    model: ir.Model, keep: Callable[[Floats], float] = largest_kept, most_lost: float = MOST_LOST
) -> ir.Model:
    """Changes the model in place and returns it. Raises CheckpointError if there is nothing to quantize.

    keep: the largest magnitude that is not cut off, from sampled inputs [R, K].
    """
    return _insert(model, INT8, keep, most_lost)


def quantize_dequantize_fp8(model: ir.Model) -> ir.Model:
    """Changes the model in place and returns it. Raises CheckpointError if there is nothing to quantize."""
    return _insert(model, FP8, lambda x: float(np.abs(x).max()) * _MARGIN, np.inf)


def half_scale(largest: NDArray[np.float32], over: float) -> NDArray[np.float32]:
    """The smallest float16 that is at least largest / over; 1 where that is zero. float32, in the shape of `largest`."""
    exact = np.asarray(largest, np.float32) / np.float32(over)
    scale = exact.astype(np.float16)
    scale = np.where(scale.astype(np.float32) < exact, np.nextafter(scale, np.float16(np.inf)), scale)
    scale[exact == 0] = 1
    return scale.astype(np.float32)


def _insert(model: ir.Model, kind: Kind, keep: Callable[[Floats], float], most_lost: float) -> ir.Model:
    graph = model.graph
    found = linears(model)
    if not found:
        raise CheckpointError(f"{kind.name}: the graph has no linear layer with a constant weight")
    zero = constant(graph, f"{kind.name}.zero", np.zeros((), kind.dtype))
    for group in by_input(found):
        entry = group[0].input
        assert SAMPLE in entry.meta, f"{entry.name} was not observed"
        sample, weights = entry.meta[SAMPLE], [array(one.weight) for one in group]
        weight = np.concatenate(weights, 1)  # together, as they have the same inputs
        step = half_scale(np.array(keep(sample)), kind.largest)
        columns = half_scale(np.abs(weight).max(0), kind.largest)
        values = rounded_weights(weight, columns, sample, float(step)) if kind is INT8 else (weight / columns).astype(kind.dtype)
        if kind is INT8 and _lost(sample, weight, step, values * columns) > most_lost:
            continue
        scale = constant(graph, f"{entry.name}.scale", step)
        quantize = ir.node("QuantizeLinear", [entry, scale, zero])
        dequantize = ir.node("DequantizeLinear", [quantize.outputs[0], scale, zero])
        _like(quantize.outputs[0], entry, f"{entry.name}.{kind.name}", zero.dtype)
        _like(dequantize.outputs[0], entry, f"{entry.name}.dequantized", entry.dtype)
        graph.insert_before(group[0].node, [quantize, dequantize])
        ends = np.cumsum([one.shape[1] for one in weights])[:-1]
        for one, part, of_part in zip(group, np.split(values, ends, 1), np.split(columns, ends), strict=True):
            one.node.replace_input_with(0, dequantize.outputs[0])
            one.node.replace_input_with(1, _weight(graph, one, kind, part, of_part))
    return model


def _lost(x: Floats, weight: Floats, step: Floats, rounded: Floats) -> float:
    exact = x @ weight
    seen = rounded_by(x, np.float32(step)) @ rounded
    size = np.square(exact).sum(1)
    return float((np.square(seen - exact).sum(1)[size > 0] / size[size > 0]).mean()) if size.any() else 0.0


def _weight(graph: ir.Graph, one: Linear, kind: Kind, values: NDArray[Any], columns: Floats) -> ir.Value:
    reader, weight = one.node, one.weight
    small = constant(graph, f"{weight.name}.{kind.name}", np.ascontiguousarray(values))
    scale = constant(graph, f"{weight.name}.scale", np.ascontiguousarray(columns))
    zeros = constant(graph, f"{weight.name}.zeros", np.zeros(len(columns), kind.dtype))
    dequantize = ir.node("DequantizeLinear", [small, scale, zeros], {"axis": 1})
    _like(dequantize.outputs[0], weight, f"{weight.name}.dequantized", weight.dtype)
    graph.insert_before(reader, [dequantize])
    return dequantize.outputs[0]


def _like(value: ir.Value, model: ir.Value, name: str, dtype: ir.DataType | None) -> None:
    assert dtype is not None
    value.name, value.shape, value.type = name, model.shape, ir.TensorType(dtype)
