"""Fuses the row-wise work around int8 products into single nodes, so that a runtime with kernels for them reads memory once.

1. RMSNormQuantizeRows, LayerNormQuantizeRows: a norm whose only reader is a QuantizeRows.
2. AddLayerNormQuantizeRows: a LayerNormalization of a sum, with any readers and a QuantizeRows, perhaps behind a Mul by [K].
3. SwiGLUQuantizeRows: gate * sigmoid(gate) * up whose only reader is a QuantizeRows, where gate and up are int8 products of the
   same input; the node reads them before they are multiplied by the tokens' scale. GeGLUQuantizeRows: Gelu(gate) * up.
4. GELUQuantizeRows: a Gelu whose only reader is a QuantizeRows, perhaps behind a Mul by [K].
5. ScaleAddRows: an int8 product, multiplied by the tokens' scale and added to a value of the same shape, or to a bias [N].

Runs after `quantize_linear_int8`, which adds QuantizeRows. Other nodes stay; unread nodes are left to `tidy`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from rexit.exporter.graph.cpu.quantized_weights import NAME as QUANTIZE
from rexit.exporter.graph.passes import (
    APPROXIMATE,
    DOMAIN,
    MICROSOFT,
    Body,
    argument,
    array,
    both_ways,
    call,
    constant,
    define,
    define_called,
    is_bias,
    is_constant,
    is_node,
    parameters,
    producer,
    replace,
    same_shape,
    take_over,
)

NORM = "RMSNormQuantizeRows"
"""Inputs x [..., T, K] and weight [K]; attribute epsilon; outputs like those of QuantizeRows."""
LAYER_NORM = "LayerNormQuantizeRows"
"""Inputs x [..., T, K], weight and bias [K]; attribute epsilon; outputs like those of QuantizeRows."""
ADD_LAYER_NORM = "AddLayerNormQuantizeRows"
"""Inputs x and residual [..., T, K], weight, bias and factor [K]; attribute epsilon. Outputs: the norm of x + residual, then
QuantizeRows of the norm times the factor."""
SWIGLU = "SwiGLUQuantizeRows"
"""Inputs gate and up [..., T, K], scale [..., T, 1]; outputs like those of QuantizeRows."""
GEGLU = "GeGLUQuantizeRows"
"""As SwiGLUQuantizeRows; attribute approximate, as Gelu's."""
GELU = "GELUQuantizeRows"
"""Inputs x [..., T, K] and factor [K]; attribute approximate, as Gelu's. Outputs: QuantizeRows of GELU(x) times the factor."""
SCALE_ADD = "ScaleAddRows"
"""Inputs product [..., T, N], scale [..., T, 1], residual [..., T, N] or [N]; output [..., T, N]."""


def fuse_rows(model: ir.Model) -> ir.Model:
    """Changes the model in place and returns it."""
    graph = model.graph
    for node in list(graph):
        fused = None
        if is_node(node, QUANTIZE, DOMAIN):
            if _add_layer_norm(graph, node):
                continue
            fused = _norm(node) or _layer_norm(graph, node) or _gated(node) or _gelu(graph, node)
        elif is_node(node, "Add"):
            fused = _scale_add(node)
        if fused is not None:
            replace(graph, node, [fused])
    define_called(model, DEFINITIONS)
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


def _layer_norm(graph: ir.Graph, quantize: ir.Node) -> ir.Node | None:
    norm = producer(quantize.inputs[0], "LayerNormalization", reads=1)
    weights = layer_norm_weights(graph, norm)
    if norm is None or weights is None or norm.inputs[0] is None:
        return None
    return call(LAYER_NORM, [norm.inputs[0], *weights], outputs=2, epsilon=norm.attributes.get_float("epsilon", 1e-5))


def _add_layer_norm(graph: ir.Graph, quantize: ir.Node) -> bool:
    """Replaces the norm of a sum, and what quantizes it; returns whether there is one."""
    scaled, factor = _factor(quantize.inputs[0], "LayerNormalization")
    norm = producer(scaled, "LayerNormalization")
    weights = layer_norm_weights(graph, norm)
    added = producer(norm.inputs[0], "Add", reads=1) if norm is not None else None
    if norm is None or weights is None or added is None or (factor is not None and factor.shape != weights[0].shape):
        return False
    x, residual = added.inputs
    if x is None or residual is None or not same_shape(x, residual):
        return False
    factor = factor or _filled(graph, weights[0], 1)
    epsilon = norm.attributes.get_float("epsilon", 1e-5)
    node = call(ADD_LAYER_NORM, [x, residual, *weights, factor], outputs=3, epsilon=epsilon)
    take_over(graph, node, (*norm.outputs[:1], *quantize.outputs))
    return True


def _factor(value: ir.Value | None, op: str) -> tuple[ir.Value | None, ir.Value | None]:
    """The value before it is multiplied by a constant, and the constant, if such a node makes it; else the value and None."""
    for scaled, factor in both_ways(producer(value, "Mul", reads=1)):
        if is_constant(factor) and producer(scaled, op) is not None:
            return scaled, factor
    return value, None


def layer_norm_weights(graph: ir.Graph, norm: ir.Node | None) -> list[ir.Value] | None:
    """Weight and bias [K] of a LayerNormalization of rows; without a bias, zeros."""
    if norm is None or len(norm.outputs) != 1 or norm.attributes.get_int("stash_type", 1) != ir.DataType.FLOAT:
        return None
    x, weight, bias = (*norm.inputs, None)[:3]
    if x is None or x.shape is None or weight is None or weight.shape is None or list(weight.shape) != [x.shape[-1]]:
        return None
    if norm.attributes.get_int("axis", -1) not in (-1, len(x.shape) - 1) or not is_constant(weight):
        return None
    return [weight, bias or _filled(graph, weight, 0)]


def _filled(graph: ir.Graph, like: ir.Value, number: float) -> ir.Value:
    """A constant with this number everywhere, in a vector's shape."""
    name = f"{like.name}.filled_{number:g}"
    return graph.initializers.get(name) or constant(graph, name, np.full_like(array(like), number))


def _gated(quantize: ir.Node) -> ir.Node | None:
    for gate, up in match_swiglu(quantize.inputs[0]):
        if inputs := _scaled_products(gate, up, reads=2):
            return call(SWIGLU, inputs, outputs=2)
    for activated, up in both_ways(producer(quantize.inputs[0], "Mul", reads=1)):
        gelu = producer(activated, "Gelu", reads=1)
        if gelu is not None and same_shape(activated, up) and (inputs := _scaled_products(gelu.inputs[0], up, reads=1)):
            return call(GEGLU, inputs, outputs=2, **_approximate(gelu))
    return None


def _scaled_products(gate: ir.Value | None, up: ir.Value, reads: int) -> list[ir.Value] | None:
    """Gate and up before they are scaled, and their scale, if both are products of the same input."""
    scaled_gate, scaled_up = scaled_product(gate, reads), scaled_product(up)
    if scaled_gate and scaled_up and scaled_gate[1] is scaled_up[1]:
        return [scaled_gate[0], scaled_up[0], scaled_gate[1]]
    return None


def _gelu(graph: ir.Graph, quantize: ir.Node) -> ir.Node | None:
    scaled, factor = _factor(quantize.inputs[0], "Gelu")
    gelu = producer(scaled, "Gelu", reads=1)
    x = gelu.inputs[0] if gelu is not None else None
    if gelu is None or x is None or x.shape is None or not isinstance(width := x.shape[-1], int):
        return None
    if factor is None:
        name = f"gelu.filled_1.{width}"
        factor = graph.initializers.get(name) or constant(graph, name, np.ones(width, np.float32))
    elif list(factor.shape or ()) != [width]:
        return None
    return call(GELU, [x, factor], outputs=2, **_approximate(gelu))


def _approximate(gelu: ir.Node) -> dict[str, str]:
    return {APPROXIMATE: gelu.attributes.get_string(APPROXIMATE, "none")}


def _scale_add(add: ir.Node) -> ir.Node | None:
    for value, residual in both_ways(add):
        scaled = scaled_product(value)
        if scaled and (is_bias(residual, value) or same_shape(value, residual)):
            return call(SCALE_ADD, [*scaled, residual])
    return None


def scaled_product(value: ir.Value | None, reads: int = 1) -> tuple[ir.Value, ir.Value] | None:
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


def define_layer_norm(model: ir.Model) -> None:
    """LayerNormQuantizeRows."""
    body, (x, weight, bias) = Body(), parameters("x", "weight", "bias")
    normed = body.add("LayerNormalization", x, weight, bias, axis=-1, epsilon=argument("epsilon", "epsilon"))
    quantized = body.node(QUANTIZE, normed, domain=DOMAIN, outputs=2).outputs
    define(model, LAYER_NORM, [x, weight, bias], body, quantized, ["epsilon"])


def define_add_layer_norm(model: ir.Model) -> None:
    """AddLayerNormQuantizeRows."""
    body, inputs = Body(), parameters("x", "residual", "weight", "bias", "factor")
    x, residual, weight, bias, factor = inputs
    summed = body.add("Add", x, residual)
    normed = body.add("LayerNormalization", summed, weight, bias, axis=-1, epsilon=argument("epsilon", "epsilon"))
    quantized = body.node(QUANTIZE, body.add("Mul", normed, factor), domain=DOMAIN, outputs=2).outputs
    define(model, ADD_LAYER_NORM, inputs, body, [normed, *quantized], ["epsilon"])


def define_swiglu(model: ir.Model) -> None:
    """SwiGLUQuantizeRows."""
    body, (gate, up, scale) = Body(), parameters("gate", "up", "scale")
    scaled = body.add("Mul", gate, scale)
    silu = body.add("Mul", scaled, body.add("Sigmoid", scaled))
    hidden = body.add("Mul", silu, body.add("Mul", up, scale))
    define(model, SWIGLU, [gate, up, scale], body, body.node(QUANTIZE, hidden, domain=DOMAIN, outputs=2).outputs)


def define_geglu(model: ir.Model) -> None:
    """GeGLUQuantizeRows."""
    body, (gate, up, scale) = Body(), parameters("gate", "up", "scale")
    hidden = body.add("Mul", _activated(body, body.add("Mul", gate, scale)), body.add("Mul", up, scale))
    define(model, GEGLU, [gate, up, scale], body, body.node(QUANTIZE, hidden, domain=DOMAIN, outputs=2).outputs, [APPROXIMATE])


def define_gelu(model: ir.Model) -> None:
    """GELUQuantizeRows."""
    body, (x, factor) = Body(), parameters("x", "factor")
    scaled = body.add("Mul", _activated(body, x), factor)
    define(model, GELU, [x, factor], body, body.node(QUANTIZE, scaled, domain=DOMAIN, outputs=2).outputs, [APPROXIMATE])


def _activated(body: Body, x: ir.Value) -> ir.Value:
    return body.add("Gelu", x, approximate=argument(APPROXIMATE, APPROXIMATE, ir.AttributeType.STRING))


def define_scale_add(model: ir.Model) -> None:
    """ScaleAddRows."""
    body, (product, scale, residual) = Body(), parameters("product", "scale", "residual")
    define(model, SCALE_ADD, [product, scale, residual], body, [body.add("Add", body.add("Mul", product, scale), residual)])


DEFINITIONS = {
    NORM: define_norm,
    LAYER_NORM: define_layer_norm,
    ADD_LAYER_NORM: define_add_layer_norm,
    SWIGLU: define_swiglu,
    GEGLU: define_geglu,
    GELU: define_gelu,
    SCALE_ADD: define_scale_add,
}
