"""Fuses the row-wise work around int8 products into single nodes, so that a runtime with kernels for them reads memory once.

1. RMSNormQuantizeRows: an RMSNormalization whose only reader is a QuantizeRows.
2. SwiGLUQuantizeRows: gate * sigmoid(gate) * up whose only reader is a QuantizeRows, where gate and up are int8 products of the
   same input; the node reads them before they are multiplied by the tokens' scale.
3. ScaleAddRows: an int8 product, multiplied by the tokens' scale and added to a value of the same shape.

Runs after `quantize_linear_int8`, which adds QuantizeRows. Other nodes stay; unread nodes are left to `tidy`.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from rexit.exporter.graph.cpu.quantize_linear_int8 import NAME as QUANTIZE
from rexit.exporter.graph.passes.functions import DOMAIN, Body, argument, call, define, define_called, parameters
from rexit.exporter.graph.passes.nodes import MICROSOFT, both_ways, is_node, producer, replace, same_shape

NORM = "RMSNormQuantizeRows"
"""Inputs x [..., T, K] and weight [K]; attribute epsilon; outputs like those of QuantizeRows."""
SWIGLU = "SwiGLUQuantizeRows"
"""Inputs gate and up [..., T, K], scale [..., T, 1]; outputs like those of QuantizeRows."""
SCALE_ADD = "ScaleAddRows"
"""Inputs product [..., T, N], scale [..., T, 1], residual [..., T, N]; output [..., T, N]."""


def fuse_rows(model: ir.Model) -> ir.Model:
    """Changes the model in place and returns it."""
    graph = model.graph
    for node in list(graph):
        fused = None
        if is_node(node, QUANTIZE, DOMAIN):
            fused = _norm(node) or _swiglu(node)
        elif is_node(node, "Add"):
            fused = _scale_add(node)
        if fused is not None:
            replace(graph, node, [fused])
    define_called(model, {NORM: define_norm, SWIGLU: define_swiglu, SCALE_ADD: define_scale_add})
    return model


def match_norm(value: ir.Value | None) -> tuple[list[ir.Value], float] | None:
    """The inputs x and weight [K] and the epsilon of an RMSNormalization of rows that gives the value, if it has one reader."""
    norm = producer(value, "RMSNormalization", reads=1)
    if norm is None or norm.attributes.get_int("stash_type", 1) != ir.DataType.FLOAT:
        return None
    x, weight = norm.inputs
    if x is None or weight is None or x.shape is None or weight.shape is None or list(weight.shape) != [x.shape[-1]]:
        return None
    if norm.attributes.get_int("axis", -1) not in (-1, len(x.shape) - 1):
        return None
    return [x, weight], norm.attributes.get_float("epsilon", 1e-5)


def match_swiglu(value: ir.Value | None) -> Iterator[tuple[ir.Value, ir.Value]]:
    """Yields gate and up, of one shape, if gate * sigmoid(gate) * up gives the value and nothing else reads what is between."""
    for silu, up in both_ways(producer(value, "Mul", reads=1)):
        for gate, sigmoid in both_ways(producer(silu, "Mul", reads=1)):
            activation = producer(sigmoid, "Sigmoid", reads=1)
            if activation is not None and activation.inputs[0] is gate and same_shape(gate, up):
                yield gate, up


def _norm(quantize: ir.Node) -> ir.Node | None:
    matched = match_norm(quantize.inputs[0])
    return call(NORM, matched[0], outputs=2, epsilon=matched[1]) if matched else None


def _swiglu(quantize: ir.Node) -> ir.Node | None:
    for gate, up in match_swiglu(quantize.inputs[0]):
        scaled_gate, scaled_up = scaled_product(gate, reads=2), scaled_product(up)
        if scaled_gate and scaled_up and scaled_gate[1] is scaled_up[1]:
            return call(SWIGLU, [scaled_gate[0], scaled_up[0], scaled_gate[1]], outputs=2)
    return None


def _scale_add(add: ir.Node) -> ir.Node | None:
    for value, residual in both_ways(add):
        scaled = scaled_product(value)
        if scaled and same_shape(value, residual):
            return call(SCALE_ADD, [*scaled, residual])
    return None


def scaled_product(value: ir.Value, reads: int = 1) -> tuple[ir.Value, ir.Value] | None:
    """An int8 product that nothing else reads and its tokens' scale [..., T, 1], if the value is their product."""
    scaled = producer(value, "Mul", reads)
    if scaled is None:
        return None
    product, scale = scaled.inputs
    multiplied = producer(product, "MatMulIntegerToFloat", reads=1, domain=MICROSOFT)
    # The scale must be the second output of the node that quantized the product's input.
    quantized = multiplied.inputs[0].producer() if multiplied is not None and multiplied.inputs[0] is not None else None
    if product is None or scale is None or quantized is None or quantized.domain != DOMAIN or scale.producer() is not quantized:
        return None
    return product, scale


def define_norm(model: ir.Model) -> None:
    """RMSNormQuantizeRows."""
    body, (x, weight) = Body(), parameters("x", "weight")
    normed = body.add("RMSNormalization", x, weight, axis=-1, epsilon=argument("epsilon", "epsilon"))
    define(model, NORM, [x, weight], body, body.node(QUANTIZE, normed, domain=DOMAIN, outputs=2).outputs, ["epsilon"])


def define_swiglu(model: ir.Model) -> None:
    """SwiGLUQuantizeRows."""
    body, (gate, up, scale) = Body(), parameters("gate", "up", "scale")
    scaled = body.add("Mul", gate, scale)
    silu = body.add("Mul", scaled, body.add("Sigmoid", scaled))
    hidden = body.add("Mul", silu, body.add("Mul", up, scale))
    define(model, SWIGLU, [gate, up, scale], body, body.node(QUANTIZE, hidden, domain=DOMAIN, outputs=2).outputs)


def define_scale_add(model: ir.Model) -> None:
    """ScaleAddRows."""
    body, (product, scale, residual) = Body(), parameters("product", "scale", "residual")
    define(model, SCALE_ADD, [product, scale, residual], body, [body.add("Add", body.add("Mul", product, scale), residual)])
