"""Keys and values in float16 (half) or int8 between passes, in a graph that computes in float32.

A session's cached prefix takes half the memory, or about a quarter. A pass attends to its own tokens' rounded numbers, too. So a
prefix gives the same keys and values whether its start was computed in the same pass or copied from the cache.

1. An input with keys or values has the stored dtype. SlateAttention reads it unchanged: the function converts it, the kernel
   converts while it reads. Every other reader gets it converted.
2. The source of an output with keys or values is rounded where it is computed, also for its other readers, as in 1.
3. If such an output picks the only row of an axis, which is a copy, the axis is dropped instead, which is free.

In int8 a row, a token's keys or values in a head, has its own scale, and its exponent e as an extra number:

    scale = 2^(e / 8)        the smallest with which no number exceeds 127
    q     = round(x / scale)

e = -128 marks a row with a number that is not finite; it reads as NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from rexit.exporter.graph.cpu.slate_attention import NAME, define_slate_attention
from rexit.exporter.graph.passes.functions import DOMAIN, Body, call, define, parameters
from rexit.exporter.graph.passes.nodes import FLOAT, HALF, constant, is_constant, replace

QUANTIZE, DEQUANTIZE = "QuantizeCache", "DequantizeCache"
"""float32 [..., D] to int8 [..., D + 1], and back."""

SCALES = np.exp2(np.arange(-128, 128) / 8).astype(np.float32)
"""Scales by e + 128."""
SCALES[0] = np.nan

LARGEST = 127

_AXES = 3
"""Rank of keys and values, [kv_heads, tokens, head_dim], and of no other input or output."""


@dataclass(frozen=True)
class _Stored:
    """A stored form. dtype: the numbers' type. more: extra numbers in a row. store, read: nodes that convert a value."""

    dtype: ir.DataType
    more: int
    store: Callable[[ir.Value], ir.Node]
    read: Callable[[ir.Value], ir.Node]


_HALF = _Stored(
    HALF, 0, lambda value: ir.node("Cast", [value], {"to": HALF}), lambda value: ir.node("Cast", [value], {"to": FLOAT})
)
_INT8 = _Stored(ir.DataType.INT8, 1, lambda value: call(QUANTIZE, [value]), lambda value: call(DEQUANTIZE, [value]))


def half_cache(model: ir.Model) -> ir.Model:
    """Changes the model in place and returns it. Names of inputs and outputs stay."""
    return _store(model, _HALF)


def int8_cache(model: ir.Model) -> ir.Model:
    """As `half_cache`, in int8."""
    _define_quantize(model)
    _define_dequantize(model)
    if any(node.domain == DOMAIN and node.op_type == NAME for node in model.graph):
        define_slate_attention(model, read=DEQUANTIZE)
    return _store(model, _INT8)


def _store(model: ir.Model, stored: _Stored) -> ir.Model:
    graph = model.graph
    for value in graph.inputs:
        if _is_cache(value):
            readers = [(node, n) for node, n in value.uses() if not _is_length(node)]
            _become(value, stored)
            _read_stored(graph, value, stored, readers)
    for value in list(graph.outputs):
        if _is_cache(value):
            _drop_axis(graph, value)
    for n, value in enumerate(graph.outputs):
        if _is_cache(value):
            _round(graph, n, stored)
    return model


def _is_cache(value: ir.Value) -> bool:
    return value.dtype == FLOAT and value.shape is not None and len(value.shape) == _AXES


def _is_length(node: ir.Node) -> bool:
    """Whether the node reads the number of tokens alone."""
    return node.op_type == "Shape" and (node.attributes.get_int("start", 0), node.attributes.get_int("end", _AXES)) == (1, 2)


def _become(value: ir.Value, stored: _Stored) -> None:
    assert value.shape is not None and isinstance(value.shape[-1], int)
    value.type = ir.TensorType(stored.dtype)
    value.shape = ir.Shape([*value.shape[:-1], value.shape[-1] + stored.more])


def _read_stored(graph: ir.Graph, value: ir.Value, stored: _Stored, readers: list[tuple[ir.Node, int]]) -> None:
    """Converts the stored value back to float32 for those of its readers that cannot read the stored form."""
    others = []
    for reader, n in readers:
        if reader.op_type == "Unsqueeze" and all(_takes_stored(*use) for use in reader.outputs[0].uses()):
            _become(reader.outputs[0], stored)
        else:
            others.append((reader, n))
    if not others:
        return
    back = stored.read(value)
    graph.insert_before(next(node for node in graph if any(node is reader for reader, _ in others)), back)
    _describe(back, value, FLOAT, -stored.more)
    for reader, n in others:
        reader.replace_input_with(n, back.outputs[0])


def _takes_stored(node: ir.Node, n: int) -> bool:
    return (node.domain, node.op_type) == (DOMAIN, NAME) and n in (1, 2, 3, 4)


def _round(graph: ir.Graph, n: int, stored: _Stored) -> None:
    """Stores the graph's output n; other readers of the same numbers read the rounded ones."""
    output = graph.outputs[n]
    squeeze = output.producer()
    exact = squeeze.inputs[0] if squeeze is not None and squeeze.op_type == "Squeeze" else output
    assert squeeze is not None and exact is not None
    readers = [(node, k) for node, k in exact.uses() if node.op_type != "Shape"]
    name = output.name
    if exact is output:
        exact.name = f"{name}.float32"
    rounded = _after(graph, stored.store(exact), exact, stored.dtype, stored.more)
    if exact is output:
        graph.outputs[n], rounded.name = rounded, name
    else:
        _become(output, stored)
    back = _after(graph, stored.read(rounded), rounded, FLOAT, -stored.more)
    for node, k in readers:
        node.replace_input_with(k, rounded if node is squeeze or _takes_stored(node, k) else back)


def _after(graph: ir.Graph, node: ir.Node, value: ir.Value, dtype: ir.DataType, more: int) -> ir.Value:
    """Inserts `node`, which converts `value`, behind the value's producer. Returns its output."""
    producer = value.producer()
    assert producer is not None
    graph.insert_after(producer, node)
    _describe(node, value, dtype, more)
    return node.outputs[0]


def _describe(node: ir.Node, value: ir.Value, dtype: ir.DataType, more: int) -> None:
    out = node.outputs[0]
    assert value.shape is not None and isinstance(value.shape[-1], int)
    out.name, out.type = f"{value.name}.{dtype.name.lower()}", ir.TensorType(dtype)
    out.shape = ir.Shape([*value.shape[:-1], value.shape[-1] + more])


def _drop_axis(graph: ir.Graph, value: ir.Value) -> None:
    pick = value.producer()
    if pick is None or pick.op_type != "Gather" or pick.attributes.get_int("axis", 0) != 0:
        return
    whole, index = pick.inputs
    if whole is None or whole.shape is None or whole.shape[0] != 1 or not is_constant(index) or len(whole.shape) != _AXES + 1:
        return
    first = constant(graph, f"{value.name}.axis", np.array([0]))
    replace(graph, pick, [ir.node("Squeeze", [whole, first])])


def _define_quantize(model: ir.Model) -> None:
    body, (x,) = Body(), parameters("x")
    add, last = body.add, body.constant([-1])
    largest = add("ReduceMax", add("Abs", x), last, keepdims=1)
    nothing = add("ReduceSum", add("Mul", x, body.constant(np.float32(0))), last, keepdims=1)
    finite = add("Equal", nothing, body.constant(np.float32(0)))
    too_small = add("Less", body.constant(LARGEST * SCALES[1:]), largest)  # [..., 255]
    count = add("ReduceSum", add("Cast", too_small, to=ir.DataType.INT64), last, keepdims=1)
    smallest = add("Add", add("Min", count, body.constant(np.int64(len(SCALES) - 2))), body.constant(np.int64(1)))
    index = add("Where", finite, smallest, body.constant(np.int64(0)))
    scaled = add("Round", add("Div", x, add("Gather", body.constant(SCALES), index)))
    bounded = add("Clip", scaled, body.constant(np.float32(-LARGEST)), body.constant(np.float32(LARGEST)))
    exponent = add("Sub", index, body.constant(np.int64(128)))
    parts = [add("Cast", part, to=ir.DataType.INT8) for part in (bounded, exponent)]
    define(model, QUANTIZE, [x], body, [add("Concat", *parts, axis=-1)])


def _define_dequantize(model: ir.Model) -> None:
    body, (x,) = Body(), parameters("x")
    add, last = body.add, body.constant([-1])
    values = add("Slice", x, body.constant([0]), last, last)
    exponent = add("Slice", x, last, body.constant([np.iinfo(np.int64).max]), last)
    index = add("Add", add("Cast", exponent, to=ir.DataType.INT64), body.constant(np.int64(128)))
    scale = add("Gather", body.constant(SCALES), index)
    define(model, DEQUANTIZE, [x], body, [add("Mul", add("Cast", values, to=ir.DataType.FLOAT), scale)])
