"""Attention over a packed slate as one node, `slate_attention`; and keys and values in float16 (half) between passes, in a graph
that computes in float32, `half_cache`.

A session's cached prefix takes half the memory. A pass attends to its own tokens' rounded numbers, too. So a prefix gives the
same keys and values whether its start was computed in the same pass or copied from the cache.

1. An input with keys or values is half. SlateAttention reads it unchanged: the function converts it, the kernel converts while it
   reads. Every other reader gets it converted.
2. The source of an output with keys or values is rounded where it is computed, also for its other readers, as in 1.
3. If such an output picks the only row of an axis, which is a copy, the axis is dropped instead, which is free.

Attention over a packed slate: a token sees the P tokens of the prefix and earlier tokens of its own candidate,
in an encoder all tokens of its own candidate that are fewer than `window` away.

The traced graph multiplies T queries with P + T keys and masks other candidates, which is most of the T x T part. A kernel that
knows the rule computes only visible products (`runtime/src/kernels/attention/slate_attention.hpp`). The function's body is the
masked Attention.

An encoder's keys and values have no past, and no pass reads them again. Where they and the queries come with a token's heads side
by side, and their reader takes them so, the node does too, and four transpositions of all numbers go. What rotates queries and
keys reads them so as well.

Changes a float32 Attention whose keys and values are past and new ones, with the mask of `SegmentModule.forward`, without
soft-capping and, in a decoder, without sliding window. Other nodes stay.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from rexit.exporter.graph.passes import (
    DOMAIN,
    FLOAT,
    HALF,
    Body,
    argument,
    call,
    constant,
    define,
    define_called,
    describe,
    is_constant,
    is_filled,
    parameters,
    producer,
    replace,
)

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


GROUPS = "groups"
NAME = "SlateAttention"
"""Inputs query [1, heads, T, d], key and value [1, kv_heads, T, d], past_key and past_value [1, kv_heads, P, d], groups int64
[T]; attributes scale and, in an encoder, window; output [1, heads, T, d]. Each group's tokens are contiguous. All float32; keys
and values may be float16 (`rexit.exporter.graph.cpu.slate_attention`)."""

ENCODER = "EncoderAttention"
"""Inputs query [1, T, heads, d], key and value [1, T, kv_heads, d], groups int64 [T]; attributes scale and window; output [1, T,
heads, d]. All float32. As SlateAttention with a window and no past."""

NO_WINDOW = 1e7
"""The window of an encoder's layers without one."""


def slate_attention(model: ir.Model) -> ir.Model:
    """Changes the model in place and returns it."""
    graph = model.graph
    groups = next((value for value in graph.inputs if value.name == GROUPS), None)
    matches = [(node, match) for node in graph if groups is not None and (match := _match(node, groups))]
    for node, (inputs, window) in matches:
        assert inputs[0].shape is not None
        head_dim = inputs[0].shape[3]
        assert isinstance(head_dim, int)
        scale = node.attributes.get_float("scale", head_dim**-0.5)
        replace(graph, node, [call(NAME, inputs, 1, scale=scale, **({} if window is None else {"window": window}))])
    for node in list(graph):
        if (exchanged := _tokens_first(node)) is not None:
            operands, reader = exchanged
            attributes = {name: node.attributes.get_float(name) for name in ("scale", "window")}
            rows = [value if rotary is None else _rotated(graph, reader, value, rotary) for value, rotary in operands]
            assert groups is not None
            replace(graph, reader, [call(ENCODER, [*rows, groups], 1, **attributes)])
    define_called(model, {NAME: define_slate_attention, ENCODER: define_encoder_attention})
    return model


_Operand = tuple[ir.Value, ir.Node | None]
"""Numbers [1, T, heads, d], and what rotates them."""


def _tokens_first(node: ir.Node) -> tuple[list[_Operand], ir.Node] | None:
    """EncoderAttention's query, key and value and the node that it replaces, if a SlateAttention's are all transposed."""
    if (node.domain, node.op_type) != (DOMAIN, NAME) or "window" not in node.attributes:
        return None
    operands = [operand for value in node.inputs[:3] if (operand := _operand(value)) is not None]
    out, readers = node.outputs[0], list(node.outputs[0].uses())
    if len(operands) < 3 or len(readers) != 1 or out.is_graph_output():
        return None
    reader = readers[0].node
    return (operands, reader) if _transposed(reader.outputs[0]) is out else None


def _operand(value: ir.Value | None) -> _Operand | None:
    rotary = producer(value, "RotaryEmbedding")
    if rotary is not None and len(rotary.inputs) > 3:  # which looks cosines and sines up by position
        return None
    source = _transposed(value if rotary is None else rotary.inputs[0])
    return None if source is None else (source, rotary)


def _rotated(graph: ir.Graph, reader: ir.Node, value: ir.Value, rotary: ir.Node) -> ir.Value:
    """Rotates [1, T, heads, d], before `reader`, as `rotary` does [1, heads, T, d]: the operator takes heads side by side as one
    axis."""
    assert value.shape is not None
    heads, size = value.shape[2:]
    assert isinstance(heads, int) and isinstance(size, int)
    flat = ir.node("Reshape", [value, constant(graph, f"{value.name}.sizes", np.array([0, 0, heads * size]))])
    rotation = ir.node("RotaryEmbedding", [flat.outputs[0], *rotary.inputs[1:]], rotary.attributes.copy())
    rotation.attributes["num_heads"] = ir.AttrInt64("num_heads", heads)
    whole = ir.node("Reshape", [rotation.outputs[0], constant(graph, f"{value.name}.heads", np.array([0, 0, heads, size]))])
    for node, name in ((flat, "flat"), (rotation, "flat_rotated")):
        describe(node.outputs[0], f"{value.name}.{name}", value).shape = ir.Shape([*value.shape[:2], heads * size])
    graph.insert_before(reader, [flat, rotation, whole])
    return describe(whole.outputs[0], f"{value.name}.rotated", value)


def _transposed(value: ir.Value | None) -> ir.Value | None:
    """The value before its two inner axes were exchanged, if they were."""
    node = producer(value, "Transpose")
    is_exchange = node is not None and list(node.attributes.get_ints("perm", ())) == [0, 2, 1, 3]
    return node.inputs[0] if node is not None and is_exchange else None


def define_slate_attention(model: ir.Model, name: str = NAME, rounded: bool = False) -> None:
    """Adds the function that the model's nodes of this name call: all with a window, or none.

    Args:
        model: changed in place.
        name: the name of the function to add.
        rounded: whether the operands of both products are rounded to bfloat16: queries, keys, values, and the softmax before it
            is divided by its sum.
    """
    inputs = parameters("query", "key", "value", "past_key", "past_value", "groups")
    body = Body()
    has_window = any("window" in node.attributes for node in model.graph if (node.domain, node.op_type) == (DOMAIN, name))
    out = _attention(body, inputs, has_window, rounded)
    define(model, name, inputs, body, [out], attributes=["scale", "window"] if has_window else ["scale"])


def define_encoder_attention(model: ir.Model, name: str = ENCODER, rounded: bool = False) -> None:
    """Adds the function that the model's nodes of this name call. Arguments: as `define_slate_attention`."""
    inputs = parameters("query", "key", "value", "groups")
    body = Body()
    exchanged = ir.AttrInt64s("perm", [0, 2, 1, 3])
    query, key, value = (body.add("Transpose", operand, perm=exchanged) for operand in inputs[:3])
    none = body.add("Slice", key, body.constant([0]), body.constant([0]), body.constant([2]))
    out = _attention(body, [query, key, value, none, none, inputs[3]], True, rounded)
    define(model, name, inputs, body, [body.add("Transpose", out, perm=exchanged)], attributes=["scale", "window"])


def _attention(body: Body, inputs: list[ir.Value], has_window: bool, rounded: bool) -> ir.Value:
    """SlateAttention's output, from its inputs."""
    query, key, value, past_key, past_value, groups = inputs
    add, first, second = body.add, body.constant([0]), body.constant([1])
    tokens, prefix = add("Shape", groups), add("Shape", past_key, start=2, end=3)
    index = add("Range", body.constant(0), add("Squeeze", tokens, first), body.constant(1))
    same = add("Equal", add("Unsqueeze", groups, second), add("Unsqueeze", groups, first))
    key_index, query_index = add("Unsqueeze", index, first), add("Unsqueeze", index, second)
    if has_window:
        distance = add("Cast", add("Abs", add("Sub", query_index, key_index)), to=ir.DataType.FLOAT)
        near = add("Less", distance, add("Constant", value_float=argument("value_float", "window")))
    else:
        near = add("LessOrEqual", key_index, query_index)
    own = add("And", same, near)  # [T, T]
    whole_prefix = add("Expand", body.constant(True), add("Concat", tokens, prefix, axis=0))  # [T, P]
    visible = add("Concat", whole_prefix, own, axis=1)
    mask = add("Where", visible, body.constant(np.float32(0)), body.constant(np.finfo(np.float32).min))
    key, value, past_key, past_value = (
        add("Cast", stored, to=ir.DataType.FLOAT) for stored in (key, value, past_key, past_value)
    )
    keys, values = add("Concat", past_key, key, axis=2), add("Concat", past_value, value, axis=2)
    if rounded:
        return _rounded_attention(body, query, keys, values, mask)
    return add("Attention", query, keys, values, mask, scale=argument("scale", "scale"))


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


def _match(node: ir.Node, groups: ir.Value) -> tuple[tuple[ir.Value, ...], float | None] | None:
    """SlateAttention's inputs and its window, None in a decoder, if it can replace the node."""
    if node.op_type != "Attention" or node.domain != "" or len(node.inputs) != 4 or len(node.outputs) != 1:
        return None
    if node.attributes.get_int("is_causal", 0) != 0 or node.attributes.get_float("softcap", 0.0) != 0.0:
        return None
    query, keys, values, mask = node.inputs
    if query is None or query.shape is None or query.dtype != ir.DataType.FLOAT or groups.shape is None:
        return None
    key, value = _past_and_new(keys), _past_and_new(values)
    if key is None or value is None or mask is None or (window := _own_group(mask, groups)) is None:
        return None
    shapes = [operand.shape for operand in (query, *key, *value)]
    if any(shape is None or len(shape) != 4 or shape[0] != 1 or shape[3] != query.shape[3] for shape in shapes):
        return None
    if query.shape[2] != groups.shape[0]:
        return None
    heads, kv_heads = query.shape[1], key[1].shape[1]  # type: ignore[index]
    if not isinstance(heads, int) or not isinstance(kv_heads, int) or heads % kv_heads or not isinstance(query.shape[3], int):
        return None
    return (query, key[1], value[1], key[0], value[0], groups), window[0]


def _past_and_new(value: ir.Value | None) -> tuple[ir.Value, ir.Value] | None:
    node = producer(value, "Concat")
    if node is None or len(node.inputs) != 2 or node.attributes.get_int("axis", 0) not in (2, -2):
        return None
    past, new = node.inputs
    return None if past is None or new is None else (past, new)


def _own_group(mask: ir.Value, groups: ir.Value) -> tuple[float | None] | None:
    """The window of a mask that is 0 for the prefix and tokens of the same group, else the lowest number; axes of size 1 aside.

    In a decoder the window is None, and these tokens are earlier ones. None if it is another mask.
    """
    where = producer(mask, "Where")
    if where is None or not is_filled(where.inputs[1], 0.0) or not is_filled(where.inputs[2], float(np.finfo(np.float32).min)):
        return None
    seen, window = _without_axes(where.inputs[0]), NO_WINDOW
    if (near := producer(seen, "And")) is not None:
        if (limit := _window(near.inputs[1])) is None:
            return None
        seen, window = _without_axes(near.inputs[0]), limit
    both = producer(seen, "Concat")
    if both is None or len(both.inputs) != 2 or both.attributes.get_int("axis", 0) not in (1, -1):
        return None
    prefix, own = producer(both.inputs[0], "Expand"), both.inputs[1]
    if prefix is None or not is_filled(prefix.inputs[0], 1.0):
        return None
    if _is_same(own, groups):
        return (window,)
    earlier = producer(own, "And")
    is_causal = earlier is not None and _is_same(earlier.inputs[0], groups) and _is_order(earlier.inputs[1])
    return (None,) if is_causal and near is None else None


def _window(value: ir.Value | None) -> float | None:
    """The number below which distances on both sides, of positions, are seen; None if it is another mask."""
    less = producer(_without_axes(value), "Less")
    distance = producer(_without_axes(less.inputs[0]), "Abs") if less is not None else None
    limit = less.inputs[1].const_value if less is not None and less.inputs[1] is not None else None
    if distance is None or limit is None or producer(_without_axes(distance.inputs[0]), "Sub") is None:
        return None
    return float(limit.numpy())


def _is_same(value: ir.Value | None, groups: ir.Value) -> bool:
    same = producer(value, "Equal")
    return same is not None and all(_without_axes(side) is groups for side in same.inputs)


def _is_order(value: ir.Value | None) -> bool:
    """Whether a token is not later than another."""
    order = producer(value, "LessOrEqual")
    if order is None:
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
