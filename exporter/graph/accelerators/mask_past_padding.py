"""Masks padding behind the prefix, so that a pass may have more rows of past keys and values than its prefix has tokens.

A pass without a prefix then has one row of padding instead of none. TensorRT's header allows a dimension of 0, but compilers have
raised a profile's minimum of 0 to 1. Passes of similar sizes can be padded to the same size.

The prefix has as many tokens as the first token's position says, since positions continue behind the prefix for every group:

1. Row p of the past is visible if p < positions[0]. torch traced it as always visible, an Expand of true to [T, P].
2. Padding must be finite: attention multiplies it by 0. Without padding the graph computes what it did, to the bit.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from rexit.errors import CheckpointError
from rexit.exporter.graph.passes.nodes import constant, is_filled, producer

POSITIONS = "positions"
PAST = "past_key_"
_MASKS = ("And", "Equal")


def mask_past_padding(model: ir.Model) -> ir.Model:
    """Changes the model in place and returns it. Raises CheckpointError if the prefix's part of the mask is not recognized."""
    graph = model.graph
    expands = [node for node in graph if _is_visible_prefix(node)]
    if len(expands) != 1:
        raise CheckpointError(f"the mask of the prefix is not recognized: {len(expands)} nodes expand it, expected 1")
    (expand,) = expands
    inputs = {value.name: value for value in graph.inputs if value.name is not None}
    positions = inputs[POSITIONS]
    past = next(value for name, value in inputs.items() if name.startswith(PAST))
    zero, one = (constant(graph, f"mask_past_padding.{name}", np.array(n, np.int64)) for n, name in enumerate(("zero", "one")))
    nodes: list[ir.Node] = []

    def add(op: str, *values: ir.Value, dtype: ir.DataType = ir.DataType.INT64, **attributes: int) -> ir.Value:
        node = ir.node(op, values, attributes)
        out = node.outputs[0]
        out.name, out.dtype = f"mask_past_padding.{op.lower()}", dtype
        nodes.append(node)
        return out

    rows = add("Range", zero, add("Squeeze", add("Shape", past, start=1, end=2)), one)
    prefix_tokens = add("Gather", positions, zero, axis=0)
    visible = add("Less", rows, prefix_tokens, dtype=ir.DataType.BOOL)
    assert past.shape is not None
    visible.shape = ir.Shape([past.shape[1]])
    graph.insert_before(expand, nodes)
    expand.replace_input_with(0, visible)
    return model


def _is_visible_prefix(node: ir.Node) -> bool:
    """Whether the node expands true and is concatenated with the own group's mask: an And's, an encoder's Equal's."""
    shown = node.inputs[0] if node.op_type == "Expand" else None
    if shown is None or shown.dtype != ir.DataType.BOOL or not is_filled(shown, True):
        return False
    joined = (
        reader.inputs[1]
        for reader, _ in node.outputs[0].uses()
        if reader.op_type == "Concat" and reader.inputs[0] is node.outputs[0]
    )
    return any(producer(own, op) is not None for own in joined for op in _MASKS)
