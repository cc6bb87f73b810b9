"""Finds the linear layers of a graph, for the passes that quantize them.

A linear layer is a MatMul with a constant float32 weight [K, N]. A head's projection does not count: it is the product closest to
the output `logits`, found by walking back from there to the first product with a constant on each path.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from rexit.exporter.graph.passes.nodes import is_constant, is_weight

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
