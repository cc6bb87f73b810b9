"""Finds the linear layers of a graph and replaces them with other nodes, for the passes that quantize them.

A linear layer is a MatMul with a constant float32 weight [K, N]. A head's projection does not count: it is the product closest to
the output `logits`, found by walking back from there to the first product with a constant on each path.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

MICROSOFT = "com.microsoft"
"""Domain of ONNX Runtime's own operators."""
HEADS = ("logits",)
"""Outputs of a segment whose projection stays float32."""
SAMPLE = "sample"
"""Key in the `meta` of a linear layer's input: float32 [R, K], some of its rows on real prompts."""


@dataclass(frozen=True)
class Linear:
    """A MatMul node, its input (any shape that ends in K) and its weight [K, N]."""

    node: ir.Node
    input: ir.Value
    weight: ir.Value


def linears(model: ir.Model) -> list[Linear]:
    """All linear layers except the heads', in the graph's order."""
    left_out = heads(model)
    found = []
    for node in model.graph:
        if node.op_type == "MatMul" and node.domain == "" and node not in left_out:
            entry, weight = node.inputs
            if entry is not None and weight is not None and is_weight(weight) and not is_constant(entry):
                found.append(Linear(node, entry, weight))
    return found


def heads(model: ir.Model) -> set[ir.Node]:
    """The heads' projections, MatMul or Gemm."""
    waiting = [value for value in model.graph.outputs if value.name in HEADS]
    found: set[ir.Node] = set()
    seen: set[ir.Node] = set()
    while waiting:
        node = waiting.pop().producer()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.op_type in ("MatMul", "Gemm") and is_constant(node.inputs[1]):
            found.add(node)
        else:
            waiting += [value for value in node.inputs if value is not None]
    return found


def by_input(found: list[Linear]) -> list[list[Linear]]:
    """Groups linear layers that read the same value (queries, keys and values; gate and up)."""
    groups: dict[int, list[Linear]] = {}
    for one in found:
        groups.setdefault(id(one.input), []).append(one)
    return list(groups.values())


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
    """A new initializer."""
    tensor = ir.tensor(numbers, name=name)
    value = ir.Value(name=name, shape=ir.Shape(numbers.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def replace(graph: ir.Graph, node: ir.Node, new: list[ir.Node]) -> None:
    """Replaces `node` with `new`; the output of the last one takes over the name, type and readers of the node's output."""
    old, out = node.outputs[0], new[-1].outputs[0]
    out.name, out.shape, out.type = old.name, old.shape, old.type
    graph.insert_before(node, new)
    ir.convenience.replace_all_uses_with(old, out, replace_graph_outputs=True)
    graph.remove(node, safe=True)
