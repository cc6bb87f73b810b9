"""Helpers of passes: constants, weights, finding and replacing nodes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

FLOAT, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16
MICROSOFT = "com.microsoft"
"""Domain of ONNX Runtime's own operators."""


def is_constant(value: ir.Value | None) -> bool:
    """Whether the value is known without running the graph."""
    return value is not None and value.const_value is not None


def is_weight(value: ir.Value) -> bool:
    """Whether the value is a constant float32 matrix."""
    tensor = value.const_value
    return tensor is not None and tensor.dtype == ir.DataType.FLOAT and len(tensor.shape) == 2


def array(value: ir.Value) -> NDArray[np.float32]:
    """The numbers of a constant."""
    assert value.const_value is not None
    numbers: NDArray[np.float32] = value.const_value.numpy()
    return numbers


def constant(graph: ir.Graph, name: str, numbers: NDArray[Any]) -> ir.Value:
    """Adds an initializer to the graph."""
    tensor = ir.tensor(numbers, name=name)
    value = ir.Value(name=name, shape=ir.Shape(numbers.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def replace(graph: ir.Graph, node: ir.Node, new: list[ir.Node]) -> None:
    """Replaces `node` by `new`; the last node's outputs take over the names, types and readers of the node's outputs."""
    outputs = new[-1].outputs
    for old, out in zip(node.outputs, outputs, strict=True):
        out.name, out.shape, out.type = old.name, old.shape, old.type
    graph.insert_before(node, new)
    ir.convenience.replace_all_uses_with(node.outputs, outputs, replace_graph_outputs=True)
    graph.remove(node, safe=True)


def is_node(node: ir.Node, op: str, domain: str = "") -> bool:
    """Whether the node has this operator."""
    return node.op_type == op and node.domain == domain


def producer(value: ir.Value | None, op: str, reads: int | None = None, domain: str = "") -> ir.Node | None:
    """The node that produces the value, if it has this operator and the value has `reads` readers and is no output of the graph
    (None: any)."""
    node = value.producer() if value is not None else None
    if value is None or node is None or not is_node(node, op, domain):
        return None
    return node if reads is None or (len(value.uses()) == reads and not value.is_graph_output()) else None


def is_filled(value: ir.Value | None, number: float) -> bool:
    """Whether the value is a constant with this number everywhere."""
    return is_constant(value) and bool(np.all(value.const_value.numpy() == number))  # type: ignore[union-attr]


def describe(value: ir.Value, name: str, like: ir.Value, dtype: ir.DataType | None = None) -> ir.Value:
    """Gives the value a name, and the shape and type of `like`; dtype: another type. Returns it."""
    assert like.dtype is not None
    value.name, value.shape = name, like.shape
    value.type = ir.TensorType(dtype or like.dtype)
    return value


def cast(value: ir.Value, dtype: ir.DataType, suffix: str) -> ir.Node:
    """A Cast, whose output has the value's name and a suffix."""
    node = ir.node("Cast", [value], {"to": dtype})
    describe(node.outputs[0], f"{value.name}.{suffix}", value, dtype)
    return node


def both_ways(node: ir.Node | None) -> Iterator[tuple[ir.Value, ir.Value]]:
    """Yields a commutative node's two inputs in both orders."""
    if node is not None:
        first, second = node.inputs
        if first is not None and second is not None:
            yield first, second
            yield second, first


def same_shape(a: ir.Value, b: ir.Value) -> bool:
    """Whether both shapes are known and equal."""
    if a.shape is None or b.shape is None or a.shape != b.shape:
        return False
    return all(isinstance(size, int) or size.value is not None for size in a.shape)
