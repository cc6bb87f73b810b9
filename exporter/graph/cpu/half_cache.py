"""Keys and values in float16 (half) between passes, in a graph that computes in float32.

A session's cached prefix takes half the memory. A pass attends to its own tokens' rounded numbers, too. So a prefix gives the
same keys and values whether its start was computed in the same pass or copied from the cache.

1. An input with keys or values is half. SlateAttention reads it unchanged: the function converts it, the kernel converts while it
   reads. Every other reader gets it converted.
2. The source of an output with keys or values is rounded where it is computed, also for its other readers, as in 1.
3. If such an output picks the only row of an axis, which is a copy, the axis is dropped instead, which is free.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from rexit.exporter.graph.cpu.slate_attention import NAME
from rexit.exporter.graph.passes.functions import DOMAIN
from rexit.exporter.graph.passes.nodes import FLOAT, HALF, constant, is_constant, replace

_AXES = 3
"""Rank of keys and values, [kv_heads, tokens, head_dim], and of no other input or output."""


def half_cache(model: ir.Model) -> ir.Model:
    """Changes the model in place and returns it. Names of inputs and outputs stay."""
    graph = model.graph
    for value in graph.inputs:
        if _is_cache(value):
            readers = [(node, n) for node, n in value.uses() if not _is_length(node)]
            _become_half(value)
            _read_half(graph, value, readers)
    for value in list(graph.outputs):
        if _is_cache(value):
            _drop_axis(graph, value)
    for n, value in enumerate(graph.outputs):
        if _is_cache(value):
            _round(graph, n)
    return model


def _is_cache(value: ir.Value) -> bool:
    return value.dtype == FLOAT and value.shape is not None and len(value.shape) == _AXES


def _is_length(node: ir.Node) -> bool:
    """Whether the node reads the number of tokens alone."""
    return node.op_type == "Shape" and (node.attributes.get_int("start", 0), node.attributes.get_int("end", _AXES)) == (1, 2)


def _become_half(value: ir.Value) -> None:
    value.type = ir.TensorType(HALF)


def _read_half(graph: ir.Graph, value: ir.Value, readers: list[tuple[ir.Node, int]]) -> None:
    """Converts the half back to float32 for those of its readers that cannot read it."""
    others = []
    for reader, n in readers:
        if reader.op_type == "Unsqueeze" and all(_takes_half(*use) for use in reader.outputs[0].uses()):
            _become_half(reader.outputs[0])
        else:
            others.append((reader, n))
    if not others:
        return
    back = _cast(value, FLOAT)
    graph.insert_before(next(node for node in graph if any(node is reader for reader, _ in others)), back)
    for reader, n in others:
        reader.replace_input_with(n, back.outputs[0])


def _takes_half(node: ir.Node, n: int) -> bool:
    return (node.domain, node.op_type) == (DOMAIN, NAME) and n in (1, 2, 3, 4)


def _round(graph: ir.Graph, n: int) -> None:
    """Stores the graph's output n; other readers of the same numbers read the rounded ones."""
    output = graph.outputs[n]
    producer = output.producer()
    assert producer is not None
    squeezed = producer.op_type == "Squeeze"
    exact = producer.inputs[0] if squeezed else output
    assert exact is not None
    readers = [(node, k) for node, k in exact.uses() if node.op_type != "Shape"]
    name = output.name
    if not squeezed:
        exact.name = f"{name}.float32"
    rounded = _cast_behind(graph, exact, HALF)
    if squeezed:
        _become_half(output)
    else:
        graph.outputs[n], rounded.name = rounded, name
    back = _cast_behind(graph, rounded, FLOAT)
    for node, k in readers:
        node.replace_input_with(k, rounded if node is producer or _takes_half(node, k) else back)


def _cast_behind(graph: ir.Graph, value: ir.Value, dtype: ir.DataType) -> ir.Value:
    """Inserts a Cast of `value` behind the value's producer. Returns its output."""
    producer = value.producer()
    assert producer is not None
    cast = _cast(value, dtype)
    graph.insert_after(producer, cast)
    return cast.outputs[0]


def _cast(value: ir.Value, dtype: ir.DataType) -> ir.Node:
    assert value.shape is not None
    cast = ir.node("Cast", [value], {"to": dtype})
    out = cast.outputs[0]
    out.name, out.type, out.shape = f"{value.name}.{dtype.name.lower()}", ir.TensorType(dtype), ir.Shape(value.shape)
    return cast


def _drop_axis(graph: ir.Graph, value: ir.Value) -> None:
    pick = value.producer()
    if pick is None or pick.op_type != "Gather" or pick.attributes.get_int("axis", 0) != 0:
        return
    whole, index = pick.inputs
    if whole is None or whole.shape is None or whole.shape[0] != 1 or not is_constant(index) or len(whole.shape) != _AXES + 1:
        return
    first = constant(graph, f"{value.name}.axis", np.array([0]))
    replace(graph, pick, [ir.node("Squeeze", [whole, first])])
