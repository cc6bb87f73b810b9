"""Keys and values in float16 (half) where passes hand them to each other, in a graph that computes in float32.

What a session keeps of a prefix takes half the memory. A pass reads the prefix's keys and values as halves; its own tokens attend
to each other with the float32 numbers just computed, of which it gives halves out.

1. An input with keys or values is half. SlateAttention takes it as it is: the function converts it, the kernel while it reads.
   Every other reader gets a Cast.
2. An output with keys or values is the Cast of what it was. Where that picked the only row of an axis, which is a copy, the axis
   is dropped instead, which is free.
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
    for n, value in enumerate(graph.outputs):
        if _is_cache(value):
            _drop_axis(graph, value)
            casts.output(n, graph.outputs[n])
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
    return (node.domain, node.op_type) == (DOMAIN, NAME) and n in (3, 4)


def _drop_axis(graph: ir.Graph, value: ir.Value) -> None:
    pick = value.producer()
    if pick is None or pick.op_type != "Gather" or pick.attributes.get_int("axis", 0) != 0:
        return
    whole, index = pick.inputs
    if whole is None or whole.shape is None or whole.shape[0] != 1 or not is_constant(index) or len(whole.shape) != _AXES + 1:
        return
    first = constant(graph, f"{value.name}.axis", np.array([0]))
    replace(graph, pick, [ir.node("Squeeze", [whole, first])])
