"""The linear layers of a graph, for passes that quantize them: finds them, and brings them into one form.

A linear layer is a MatMul with a constant float32 weight [K, N], except a head's projection: the first product with a constant on
each path back from the output `logits`.

The form is MatMul with a constant [K, N], then Add of a bias.

1. A Transpose of a constant matrix becomes a constant.
2. A Gemm with a constant matrix (no transposed input, alpha and beta 1) becomes MatMul, and Add where it has a bias.
3. A product whose columns a Split divides, such as gate and up in one matrix, becomes a product for each part.

Heads do not change.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from rexit.errors import CheckpointError
from rexit.exporter.graph.passes import array, constant, is_constant, is_weight, producer, replace

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


def fold_linear_weights(model: ir.Model) -> ir.Model:
    """Changes the model in place and returns it."""
    for node in list(model.graph):
        if node.op_type == "Transpose" and node.inputs[0] is not None and is_weight(node.inputs[0]):
            _transpose(model.graph, node, node.inputs[0])
    excluded = heads(model)
    for node in list(model.graph):
        if node.op_type == "Gemm" and node not in excluded and is_plain(node):
            product, bias = product_of(model.graph, node), gemm_bias(node)
            added = [] if bias is None else [ir.node("Add", [product.outputs[0], bias])]
            replace(model.graph, node, [product, *added])
    for node in list(model.graph):
        if node.op_type == "Split":
            _divide(model.graph, node)
    return model


def _divide(graph: ir.Graph, split: ir.Node) -> None:
    product = producer(split.inputs[0], "MatMul", reads=1)
    rows, weight = product.inputs if product is not None else (None, None)
    shapes = [value.shape for value in split.outputs]
    if product is None or rows is None or weight is None or not is_weight(weight) or any(shape is None for shape in shapes):
        return
    sizes = [shape[-1] for shape in shapes if shape is not None and isinstance(shape[-1], int)]
    rank = len(shapes[0]) if shapes[0] is not None else 0
    if split.attributes.get_int("axis", 0) not in (-1, rank - 1) or sum(sizes) != array(weight).shape[1]:
        return
    parts = np.split(array(weight), np.cumsum(sizes)[:-1], 1)
    for n, (value, numbers) in enumerate(zip(split.outputs, parts, strict=True)):
        part = ir.node("MatMul", [rows, constant(graph, f"{weight.name}.{n}", np.ascontiguousarray(numbers))])
        out = part.outputs[0]
        out.name, out.shape, out.type = value.name, value.shape, value.type
        graph.insert_before(product, part)
        ir.convenience.replace_all_uses_with(value, out)
    graph.remove(split, safe=True)
    graph.remove(product, safe=True)


def _transpose(graph: ir.Graph, node: ir.Node, weight: ir.Value) -> None:
    permutation = node.attributes.get_ints("perm", [1, 0])
    folded = constant(graph, f"{weight.name}.transposed", array(weight).transpose(permutation).copy())
    ir.convenience.replace_all_uses_with(node.outputs[0], folded)
    graph.remove(node, safe=True)


def is_plain(node: ir.Node) -> bool:
    """Whether a Gemm is a product with a constant matrix and a sum, without factors or a transposed input."""
    weight = node.inputs[1]
    factors = (node.attributes.get_float(name, 1.0) for name in ("alpha", "beta"))
    return (
        weight is not None
        and is_weight(weight)
        and not is_constant(node.inputs[0])
        and not node.attributes.get_int("transA", 0)
        and all(factor == 1.0 for factor in factors)
    )


def gemm_bias(node: ir.Node) -> ir.Value | None:
    """The bias of a Gemm; None if it has none."""
    return node.inputs[2] if len(node.inputs) > 2 else None


def product_of(graph: ir.Graph, node: ir.Node) -> ir.Node:
    """The product of a plain Gemm as a MatMul, without the bias."""
    entry, weight = node.inputs[:2]
    assert entry is not None and weight is not None
    if node.attributes.get_int("transB", 0):
        weight = constant(graph, f"{weight.name}.transposed", array(weight).T.copy())
    product = ir.node("MatMul", [entry, weight])
    product.outputs[0].shape, product.outputs[0].type = node.outputs[0].shape, node.outputs[0].type
    return product
