"""Keys and values in float16 (half), in a graph that computes in float32.

What a session keeps of a prefix takes half the memory. A pass attends to its own tokens' halves too, and not to the float32
numbers they were rounded from: so a prefix gives the same keys and values whether its start was computed in the same pass or is
a copy.

1. An input with keys or values is half. SlateAttention takes it as it is: the function converts it, the kernel while it reads.
   Every other reader gets a Cast.
2. What an output with keys or values is made from is rounded to half where it is made, and so for its other readers, as in 1.
3. Where such an output picks the only row of an axis, which is a copy, the axis is dropped instead, which is free.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from rexit.exporter.graph.passes.functions import DOMAIN
from rexit.exporter.graph.passes.slate_attention import NAME
from rexit.exporter.graph.precision.half import FLOAT, HALF, Casts
from rexit.exporter.graph.precision.linear import constant, is_constant, replace

_AXES = 3
"""Of keys and values, [kv_heads, tokens, head_dim], and of no other input or output."""


def half_cache(model: ir.Model) -> ir.Model:
    """Changes the model in place and returns it. Names of inputs and outputs stay."""
    graph = model.graph
    casts = Casts(graph)
    for value in graph.inputs:
        if _is_cache(value):
            value.dtype = HALF
            _read_as_half(value, casts)
    for value in list(graph.outputs):
        if _is_cache(value):
            _drop_axis(graph, value)
    for n, value in enumerate(graph.outputs):
        if _is_cache(value):
            _round(graph, n)
    return model


def _is_cache(value: ir.Value) -> bool:
    return value.dtype == FLOAT and value.shape is not None and len(value.shape) == _AXES


def _read_as_half(value: ir.Value, casts: Casts) -> None:
    for reader, n in list(value.uses()):
        if reader.op_type == "Shape":
            continue
        if reader.op_type == "Unsqueeze" and all(_takes_halves(*use) for use in reader.outputs[0].uses()):
            reader.outputs[0].dtype = HALF
        else:
            reader.replace_input_with(n, casts.to(value, FLOAT, reader))


def _takes_halves(node: ir.Node, n: int) -> bool:
    return (node.domain, node.op_type) == (DOMAIN, NAME) and n in (1, 2, 3, 4)


def _round(graph: ir.Graph, n: int) -> None:
    """Makes the graph's output n half, and what reads the same numbers read halves."""
    output = graph.outputs[n]
    squeeze = output.producer()
    exact = squeeze.inputs[0] if squeeze is not None and squeeze.op_type == "Squeeze" else output
    assert squeeze is not None and exact is not None
    readers = [(node, k) for node, k in exact.uses() if node.op_type != "Shape"]
    if exact is output:
        name, exact.name = exact.name, f"{exact.name}.float32"
        rounded = graph.outputs[n] = _cast(graph, exact, HALF)
        rounded.name = name
    else:
        rounded = _cast(graph, exact, HALF)
        output.dtype = HALF
    back = _cast(graph, rounded, FLOAT)
    for node, k in readers:
        node.replace_input_with(k, rounded if node is squeeze or _takes_halves(node, k) else back)


def _cast(graph: ir.Graph, value: ir.Value, dtype: ir.DataType) -> ir.Value:
    """`value` in `dtype`, right behind what makes it."""
    node = ir.node("Cast", [value], {"to": dtype})
    made = node.outputs[0]
    made.name, made.shape, made.type = f"{value.name}.{dtype.name.lower()}", value.shape, ir.TensorType(dtype)
    producer = value.producer()
    assert producer is not None
    graph.insert_after(producer, node)
    return made


def _drop_axis(graph: ir.Graph, value: ir.Value) -> None:
    pick = value.producer()
    if pick is None or pick.op_type != "Gather" or pick.attributes.get_int("axis", 0) != 0:
        return
    whole, index = pick.inputs
    if whole is None or whole.shape is None or whole.shape[0] != 1 or not is_constant(index) or len(whole.shape) != _AXES + 1:
        return
    first = constant(graph, f"{value.name}.axis", np.array([0]))
    replace(graph, pick, [ir.node("Squeeze", [whole, first])])
