"""Helpers of passes: constants, weights, replacing nodes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

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
    """Replaces `node` by `new`; the last node's output takes over the name, type and readers of the node's output."""
    old, out = node.outputs[0], new[-1].outputs[0]
    out.name, out.shape, out.type = old.name, old.shape, old.type
    graph.insert_before(node, new)
    ir.convenience.replace_all_uses_with(old, out, replace_graph_outputs=True)
    graph.remove(node, safe=True)
