"""Finds the linear layers of a graph, for passes that quantize them.

A linear layer is a MatMul with a constant float32 weight [K, N], except a head's projection: the first product with a constant on
each path back from the output `logits`.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from rexit.errors import CheckpointError
from rexit.exporter.graph.passes import array, is_constant, is_weight

HEADS = ("logits",)
"""Outputs of a segment whose projection stays float32."""
SAMPLE = "sample"
"""Key in the `meta` of a linear layer's input: rows sampled on real prompts, float32 [R, K]."""


@dataclass(frozen=True)
class Linear:
    """A MatMul node, its input (any shape that ends in K) and its weight [K, N]."""

    node: ir.Node
    input: ir.Value
    weight: ir.Value


def linears(model: ir.Model) -> list[Linear]:
    """All linear layers except the heads', in the graph's order."""
    excluded = heads(model)
    layers = []
    for node in model.graph:
        if node.op_type == "MatMul" and node.domain == "" and node not in excluded:
            entry, weight = node.inputs
            if entry is not None and weight is not None and is_weight(weight) and not is_constant(entry):
                layers.append(Linear(node, entry, weight))
    return layers


def layers_to_quantize(model: ir.Model, precision: str, block: int = 1) -> list[Linear]:
    """All linear layers except the heads'.

    Args:
        model: the graph.
        precision: the precision's name, for messages.
        block: block size; it must divide the rows (K) of every weight.

    Raises:
        CheckpointError: there is no linear layer, or a weight is not divisible into blocks.
    """
    layers = linears(model)
    if not layers:
        raise CheckpointError(f"{precision}: the graph has no linear layer with a constant weight")
    for linear in layers:
        if (rows := array(linear.weight).shape[0]) % block:
            raise CheckpointError(f"{precision}: {linear.weight.name} has {rows} rows (K), not divisible into blocks of {block}")
    return layers


def heads(model: ir.Model) -> set[ir.Node]:
    """The heads' projections, MatMul or Gemm."""
    pending = [value for value in model.graph.outputs if value.name in HEADS]
    projections: set[ir.Node] = set()
    visited: set[ir.Node] = set()
    while pending:
        node = pending.pop().producer()
        if node is None or node in visited:
            continue
        visited.add(node)
        if node.op_type in ("MatMul", "Gemm") and is_constant(node.inputs[1]):
            projections.add(node)
        else:
            pending += [value for value in node.inputs if value is not None]
    return projections


def by_input(layers: list[Linear]) -> list[list[Linear]]:
    """Groups linear layers that read the same value (queries, keys and values; gate and up)."""
    groups: dict[int, list[Linear]] = {}
    for linear in layers:
        groups.setdefault(id(linear.input), []).append(linear)
    return list(groups.values())
