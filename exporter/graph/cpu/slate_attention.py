"""Attention over a packed slate as one node: a token sees the P tokens of the prefix and earlier tokens of its own candidate.

The traced graph multiplies T queries with P + T keys and masks other candidates, which is most of the T x T part. A kernel that
knows the rule computes only visible products (`runtime/src/kernels/attention/slate_attention.hpp`). The function's body is the
masked Attention.

Changes a float32 Attention whose keys and values are past and new ones, with the mask of `SegmentModule.forward` and without
sliding window or soft-capping. Other nodes stay.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from rexit.exporter.graph.passes.functions import DOMAIN, Body, argument, call, define, parameters
from rexit.exporter.graph.passes.nodes import is_filled, producer, replace

GROUPS = "groups"
NAME = "SlateAttention"
"""Inputs query [1, heads, T, d], key and value [1, kv_heads, T, d], past_key and past_value [1, kv_heads, P, d], groups int64
[T]; attribute scale; output [1, heads, T, d]. Each group's tokens are contiguous. All float32; keys and values may be float16,
or int8 with d + 1 numbers a row (`rexit.exporter.graph.cpu.stored_cache`)."""


def slate_attention(model: ir.Model) -> ir.Model:
    """Changes the model in place and returns it."""
    graph = model.graph
    groups = next((value for value in graph.inputs if value.name == GROUPS), None)
    matches = [(node, inputs) for node in graph if groups is not None and (inputs := _match(node, groups))]
    for node, inputs in matches:
        assert inputs[0].shape is not None
        head_dim = inputs[0].shape[3]
        assert isinstance(head_dim, int)
        scale = node.attributes.get_float("scale", head_dim**-0.5)
        replace(graph, node, [call(NAME, inputs, scale=scale)])
    if matches:
        define_slate_attention(model)
    return model


def define_slate_attention(model: ir.Model, read: str | None = None, name: str = NAME, rounded: bool = False) -> None:
    """Adds the function.

    Args:
        model: changed in place.
        read: the model's function that converts keys and values to float32; None: a Cast does.
        name: the name of the function to add.
        rounded: whether the operands of both products are rounded to bfloat16: queries, keys, values, and the softmax before it
            is divided by its sum.
    """
    inputs = parameters("query", "key", "value", "past_key", "past_value", "groups")
    query, key, value, past_key, past_value, groups = inputs
    body = Body()
    add, first, second = body.add, body.constant([0]), body.constant([1])
    tokens, prefix = add("Shape", groups), add("Shape", past_key, start=2, end=3)
    index = add("Range", body.constant(0), add("Squeeze", tokens, first), body.constant(1))
    same = add("Equal", add("Unsqueeze", groups, second), add("Unsqueeze", groups, first))
    not_later = add("LessOrEqual", add("Unsqueeze", index, first), add("Unsqueeze", index, second))
    own = add("And", same, not_later)  # [T, T]
    whole_prefix = add("Expand", body.constant(True), add("Concat", tokens, prefix, axis=0))  # [T, P]
    visible = add("Concat", whole_prefix, own, axis=1)
    mask = add("Where", visible, body.constant(np.float32(0)), body.constant(np.finfo(np.float32).min))
    key, value, past_key, past_value = (
        add(read, stored, domain=DOMAIN) if read else add("Cast", stored, to=ir.DataType.FLOAT)
        for stored in (key, value, past_key, past_value)
    )
    keys, values = add("Concat", past_key, key, axis=2), add("Concat", past_value, value, axis=2)
    if rounded:
        out = _rounded_attention(body, query, keys, values, mask)
    else:
        out = add("Attention", query, keys, values, mask, scale=argument("scale", "scale"))
    define(model, name, inputs, body, [out], attributes=["scale"])


def _rounded_attention(body: Body, query: ir.Value, keys: ir.Value, values: ir.Value, mask: ir.Value) -> ir.Value:
    add = body.add

    def to_bfloat16(exact: ir.Value) -> ir.Value:
        return add("Cast", add("Cast", exact, to=ir.DataType.BFLOAT16), to=ir.DataType.FLOAT)

    # [1, kv_heads, query heads of a key head, tokens, head_dim]
    third = body.constant([2])
    keys, values = (add("Unsqueeze", to_bfloat16(exact), third) for exact in (keys, values))
    kv_heads, rest = add("Shape", keys, start=1, end=2), add("Shape", query, start=2)
    grouped = add("Reshape", to_bfloat16(query), add("Concat", body.constant([1]), kv_heads, body.constant([-1]), rest, axis=0))
    products = add("MatMul", grouped, add("Transpose", keys, perm=ir.AttrInt64s("perm", [0, 1, 2, 4, 3])))
    scale = add("Constant", value_float=argument("value_float", "scale"))
    scores = add("Add", add("Mul", products, scale), mask)
    last = body.constant([-1])
    shares = add("Exp", add("Sub", scores, add("ReduceMax", scores, last, keepdims=1)))
    mixed = add("Div", add("MatMul", to_bfloat16(shares), values), add("ReduceSum", shares, last, keepdims=1))
    return add("Reshape", mixed, add("Shape", query))


def _match(node: ir.Node, groups: ir.Value) -> tuple[ir.Value, ...] | None:
    """SlateAttention's inputs if it can replace the node."""
    if node.op_type != "Attention" or node.domain != "" or len(node.inputs) != 4 or len(node.outputs) != 1:
        return None
    if node.attributes.get_int("is_causal", 0) != 0 or node.attributes.get_float("softcap", 0.0) != 0.0:
        return None
    query, keys, values, mask = node.inputs
    if query is None or query.shape is None or query.dtype != ir.DataType.FLOAT or groups.shape is None:
        return None
    key, value = _past_and_new(keys), _past_and_new(values)
    if key is None or value is None or mask is None or not _is_own_group(mask, groups):
        return None
    shapes = [operand.shape for operand in (query, *key, *value)]
    if any(shape is None or len(shape) != 4 or shape[0] != 1 or shape[3] != query.shape[3] for shape in shapes):
        return None
    if query.shape[2] != groups.shape[0]:
        return None
    heads, kv_heads = query.shape[1], key[1].shape[1]  # type: ignore[index]
    if not isinstance(heads, int) or not isinstance(kv_heads, int) or heads % kv_heads or not isinstance(query.shape[3], int):
        return None
    return query, key[1], value[1], key[0], value[0], groups


def _past_and_new(value: ir.Value | None) -> tuple[ir.Value, ir.Value] | None:
    node = producer(value, "Concat")
    if node is None or len(node.inputs) != 2 or node.attributes.get_int("axis", 0) not in (2, -2):
        return None
    past, new = node.inputs
    return None if past is None or new is None else (past, new)


def _is_own_group(mask: ir.Value, groups: ir.Value) -> bool:
    """Whether the mask is 0 for the prefix and earlier tokens of the same group, else the lowest number; axes of size 1 aside."""
    where = producer(mask, "Where")
    if where is None or not is_filled(where.inputs[1], 0.0) or not is_filled(where.inputs[2], float(np.finfo(np.float32).min)):
        return False
    both = producer(_without_axes(where.inputs[0]), "Concat")
    if both is None or len(both.inputs) != 2 or both.attributes.get_int("axis", 0) not in (1, -1):
        return False
    prefix, own = producer(both.inputs[0], "Expand"), producer(both.inputs[1], "And")
    if prefix is None or own is None or not is_filled(prefix.inputs[0], 1.0):
        return False
    same, order = producer(own.inputs[0], "Equal"), producer(own.inputs[1], "LessOrEqual")
    if same is None or order is None or any(_without_axes(value) is not groups for value in same.inputs):
        return False
    places = [_without_axes(value) for value in order.inputs]
    # Both sides are 0 … T-1: the key's as a row, the query's as a column.
    shapes = [value.shape for value in order.inputs if value is not None]
    return (
        places[0] is places[1]
        and producer(places[0], "Range") is not None
        and all(shape is not None and len(shape) == 2 for shape in shapes)
        and shapes[0][0] == 1  # type: ignore[index]
    )


def _without_axes(value: ir.Value | None) -> ir.Value | None:
    while (node := producer(value, "Unsqueeze")) is not None:
        value = node.inputs[0]
    return value
