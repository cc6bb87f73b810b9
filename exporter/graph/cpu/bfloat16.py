"""Linear layers and attention in bfloat16. In linear layers weights and inputs are rounded, products of two such numbers are
exact, sums are float32. Heads stay float32.

1. An input is rounded once for all layers that read it: RoundRows. Behind an RMSNormalization or a SwiGLU with no other reader
   one node does both: RMSNormRoundRows, SwiGLURoundRows.
2. MatMulBFloat16 multiplies. A product that is added to a value of its shape, or to a bias, is a MatMulAddBFloat16. With a GELU
   behind its bias, or a residual and a LayerNormalization, what rounds these does it all: MatMulGELURoundRows,
   MatMulAddLayerNormRoundRows.
3. A weight [K, N] lies in panels of columns, in the order in which a processor with instructions for pairs of bfloat16 reads it:
   [N / panel, K / 2, panel, 2], where the pair has rows 2i and 2i + 1. The runtime's kernel reads the file's own memory.
4. A layer with an odd K, or with an N that is no multiple of 16, stays float32.

All these are nodes of rexit's domain (`functions.py`).

Attention, for a variant whose gate allows for it, after `half_cache`:

1. SlateAttention becomes SlateAttentionBFloat16, EncoderAttention EncoderAttentionBFloat16. The function rounds queries, keys,
   values and the softmax's numerators; scores, the softmax and all sums stay float32.
2. The runtime's kernel multiplies pairs of bfloat16 where the processor can (AVX512-BF16, Armv8.6): twice as many products per
   instruction. Other processors round the same numbers and multiply floats, so that all agree.
"""

from __future__ import annotations

from functools import partial

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from rexit.errors import CheckpointError
from rexit.exporter.graph.cpu.fuse_rows import layer_norm_weights, match_norm, match_swiglu
from rexit.exporter.graph.cpu.slate_attention import ENCODER, NAME, define_encoder_attention, define_slate_attention
from rexit.exporter.graph.linear_layers import by_input, layers_to_quantize
from rexit.exporter.graph.passes import (
    APPROXIMATE,
    DOMAIN,
    Body,
    argument,
    array,
    both_ways,
    call,
    constant,
    define,
    define_called,
    is_bias,
    is_node,
    parameters,
    producer,
    replace,
    same_shape,
    take_over,
)

ROUND = "RoundRows"
"""Input x float32 [..., T, K]; output bfloat16 of the same shape."""
NORM = "RMSNormRoundRows"
"""Inputs x [..., T, K] and weight [K]; attribute epsilon; output as RoundRows'."""
SWIGLU = "SwiGLURoundRows"
"""Inputs gate and up [..., T, K]; output as RoundRows'."""
PRODUCT = "MatMulBFloat16"
"""Inputs x bfloat16 [..., T, K], weight bfloat16 [N / panel, K / 2, panel, 2]; output float32 [..., T, N]."""
PRODUCT_ADD = "MatMulAddBFloat16"
"""Inputs as MatMulBFloat16's and residual float32 [..., T, N] or [N]; output float32 [..., T, N]."""
PRODUCT_GELU = "MatMulGELURoundRows"
"""Inputs as MatMulBFloat16's and bias float32 [N]; attribute approximate, as Gelu's; output as RoundRows'."""
PRODUCT_LAYER_NORM = "MatMulAddLayerNormRoundRows"
"""Inputs as MatMulBFloat16's, bias [N], residual [..., T, N], the norm's weight and bias [N]; attribute epsilon. Outputs: the
norm float32 [..., T, N], and RoundRows of it."""

PANELS = (64, 48, 32, 16)
"""Columns of a panel, the first that divides N: four vectors of AVX-512, or less. Wider ones would not stay in registers."""


def bfloat16_products(model: ir.Model) -> ir.Model:
    """Changes the model in place and returns it. Raises CheckpointError if there is no layer to round."""
    graph = model.graph
    layers = [linear for linear in layers_to_quantize(model, "bf16") if panel_of(*array(linear.weight).shape)]
    if not layers:
        raise CheckpointError("bf16: no linear layer has an even number of rows (K) and a multiple of 16 columns (N)")
    for group in by_input(layers):
        x = group[0].node.inputs[0]  # not `input`: it may be the output of a layer that was replaced
        assert x is not None
        rounding = call(ROUND, [x])
        rounding.outputs[0].name = f"{x.name}.bfloat16"
        graph.insert_before(group[0].node, rounding)
        for linear in group:
            weight = constant(graph, f"{linear.weight.name}.bfloat16", pack(array(linear.weight)))
            replace(graph, linear.node, [call(PRODUCT, [rounding.outputs[0], weight])])
    _fuse(graph)
    define_called(model, DEFINITIONS)
    return model


def panel_of(rows: int, columns: int) -> int | None:
    """Columns of a panel of a weight [rows, columns]; None: it cannot be packed."""
    return next((panel for panel in PANELS if rows % 2 == 0 and columns % panel == 0), None)


def pack(weight: NDArray[np.float32]) -> NDArray[ml_dtypes.bfloat16]:
    """A weight [K, N] as bfloat16 [N / panel, K / 2, panel, 2]."""
    rows, columns = weight.shape
    panel = panel_of(rows, columns)
    assert panel is not None
    pairs = weight.astype(ml_dtypes.bfloat16).reshape(rows // 2, 2, columns // panel, panel)
    return np.ascontiguousarray(pairs.transpose(2, 0, 3, 1))


def _fuse(graph: ir.Graph) -> None:
    for node in list(graph):
        if is_node(node, ROUND, DOMAIN):
            if (norm := match_norm(node.inputs[0])) is not None:
                replace(graph, node, [call(NORM, norm[0], epsilon=norm[1])])
            elif (inputs := next(match_swiglu(node.inputs[0]), None)) is not None:
                replace(graph, node, [call(SWIGLU, inputs)])
            elif (gelu := producer(node.inputs[0], "Gelu", reads=1)) is not None and (biased := _biased(gelu.inputs[0])):
                approximate = gelu.attributes.get_string(APPROXIMATE, "none")
                replace(graph, node, [call(PRODUCT_GELU, biased, approximate=approximate)])
            else:
                _fuse_layer_norm(graph, node)
        elif is_node(node, "Add"):
            for value, residual in both_ways(node):
                product = producer(value, PRODUCT, reads=1, domain=DOMAIN)
                if product is not None and (same_shape(value, residual) or is_bias(residual, value)):
                    x, weight = product.inputs
                    assert x is not None and weight is not None
                    replace(graph, node, [call(PRODUCT_ADD, [x, weight, residual])])
                    break


def _biased(value: ir.Value | None) -> list[ir.Value] | None:
    """The inputs of a product and its bias that nothing else reads, if they give the value."""
    product = producer(value, PRODUCT_ADD, reads=1, domain=DOMAIN)
    if product is None or value is None:
        return None
    inputs = [operand for operand in product.inputs if operand is not None]
    return inputs if is_bias(inputs[-1], value) else None


def _fuse_layer_norm(graph: ir.Graph, rounding: ir.Node) -> None:
    """Replaces the norm of a biased product and a residual, which others may read, and what rounds it."""
    norm = producer(rounding.inputs[0], "LayerNormalization")
    weights = layer_norm_weights(graph, norm)
    for value, residual in both_ways(producer(norm.inputs[0], "Add", reads=1) if norm is not None else None):
        if norm is not None and weights is not None and same_shape(value, residual) and (biased := _biased(value)):
            inputs = [*biased, residual, *weights]
            node = call(PRODUCT_LAYER_NORM, inputs, outputs=2, epsilon=norm.attributes.get_float("epsilon", 1e-5))
            return take_over(graph, node, (norm.outputs[0], rounding.outputs[0]))


def define_round(model: ir.Model) -> None:
    """RoundRows."""
    body, (x,) = Body(), parameters("x")
    define(model, ROUND, [x], body, [_round(body, x)])


def define_norm(model: ir.Model) -> None:
    """RMSNormRoundRows."""
    body, (x, weight) = Body(), parameters("x", "weight")
    normed = body.add("RMSNormalization", x, weight, axis=-1, epsilon=argument("epsilon", "epsilon"))
    define(model, NORM, [x, weight], body, [_round(body, normed)], ["epsilon"])


def define_swiglu(model: ir.Model) -> None:
    """SwiGLURoundRows."""
    body, (gate, up) = Body(), parameters("gate", "up")
    silu = body.add("Mul", gate, body.add("Sigmoid", gate))
    define(model, SWIGLU, [gate, up], body, [_round(body, body.add("Mul", silu, up))])


def define_product(model: ir.Model) -> None:
    """MatMulBFloat16."""
    body, (x, weight) = Body(), parameters("x", "weight")
    define(model, PRODUCT, [x, weight], body, [_multiply(body, x, weight)])


def define_product_add(model: ir.Model) -> None:
    """MatMulAddBFloat16."""
    body, (x, weight, residual) = Body(), parameters("x", "weight", "residual")
    define(model, PRODUCT_ADD, [x, weight, residual], body, [body.add("Add", _multiply(body, x, weight), residual)])


def define_product_gelu(model: ir.Model) -> None:
    """MatMulGELURoundRows."""
    body, (x, weight, bias) = Body(), parameters("x", "weight", "bias")
    passed = argument(APPROXIMATE, APPROXIMATE, ir.AttributeType.STRING)
    active = body.add("Gelu", body.add("Add", _multiply(body, x, weight), bias), approximate=passed)
    define(model, PRODUCT_GELU, [x, weight, bias], body, [_round(body, active)], [APPROXIMATE])


def define_product_layer_norm(model: ir.Model) -> None:
    """MatMulAddLayerNormRoundRows."""
    body, inputs = Body(), parameters("x", "weight", "bias", "residual", "norm_weight", "norm_bias")
    x, weight, bias, residual, *weights = inputs
    summed = body.add("Add", body.add("Add", _multiply(body, x, weight), bias), residual)
    normed = body.add("LayerNormalization", summed, *weights, axis=-1, epsilon=argument("epsilon", "epsilon"))
    define(model, PRODUCT_LAYER_NORM, inputs, body, [normed, _round(body, normed)], ["epsilon"])


def _round(body: Body, x: ir.Value) -> ir.Value:
    return body.add("Cast", x, to=ir.DataType.BFLOAT16)


def _multiply(body: Body, x: ir.Value, weight: ir.Value) -> ir.Value:
    rows = body.add("Transpose", weight, perm=ir.AttrInt64s("perm", [1, 3, 0, 2]))  # [K / 2, 2, N / panel, panel]
    matrix = body.add("Flatten", body.add("Cast", rows, to=ir.DataType.FLOAT), axis=2)
    return body.add("MatMul", body.add("Cast", x, to=ir.DataType.FLOAT), matrix)


DEFINITIONS = {
    ROUND: define_round,
    NORM: define_norm,
    SWIGLU: define_swiglu,
    PRODUCT: define_product,
    PRODUCT_ADD: define_product_add,
    PRODUCT_GELU: define_product_gelu,
    PRODUCT_LAYER_NORM: define_product_layer_norm,
}


ROUNDED = "SlateAttentionBFloat16"
"""Inputs, attribute and output as SlateAttention's."""
ENCODER_ROUNDED = "EncoderAttentionBFloat16"
"""The same as EncoderAttention's."""


def bfloat16_attention(model: ir.Model) -> ir.Model:
    """Changes the model in place and returns it."""
    rounded = {NAME: ROUNDED, ENCODER: ENCODER_ROUNDED}
    for node in [node for node in model.graph if node.domain == DOMAIN and node.op_type in rounded]:
        inputs = [value for value in node.inputs if value is not None]
        attributes = {name: node.attributes.get_float(name) for name in node.attributes}
        replace(model.graph, node, [call(rounded[node.op_type], inputs, 1, **attributes)])
    for function in [function for function in model.functions.values() if function.name in rounded]:
        del model.functions[function.identifier()]
    define_called(
        model,
        {
            ROUNDED: partial(define_slate_attention, name=ROUNDED, rounded=True),
            ENCODER_ROUNDED: partial(define_encoder_attention, name=ENCODER_ROUNDED, rounded=True),
        },
    )
    return model
