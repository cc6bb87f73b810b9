"""Int8 weights in the order in which the runtime's kernels read them, and each product in one node with what reads it.

1. MultiplyRows: a product times its tokens' scale. MultiplyAddRows: a product that ScaleAddRows reads.
   MultiplySwiGLUQuantizeRows, MultiplyGeGLUQuantizeRows: the two products that SwiGLUQuantizeRows or GeGLUQuantizeRows reads.
   MultiplyGELUQuantizeRows, MultiplyAddLayerNormQuantizeRows: a product and its bias that GELUQuantizeRows or
   AddLayerNormQuantizeRows alone reads.
2. A weight [K, N] becomes [N / 16, K / 4, 16, 4], so K must be a multiple of 4 and N of 16. Other products stay, and so do those
   with another reader.
3. It is stored with -128 * sum_k w[k, n], the initial value of a kernel's sums, which subtracts the zero point.
4. The functions restore [K, N] and call ONNX Runtime's MatMulIntegerToFloat. It computes that once, when it loads the graph, for
   processors without such a kernel. Both give the same bits.

Runs after `fuse_rows` and `tidy`: nodes that nothing reads would count as readers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from rexit.exporter.graph.cpu.fuse_rows import ADD_LAYER_NORM, GEGLU, GELU, SCALE_ADD, SWIGLU, scaled_product
from rexit.exporter.graph.cpu.quantized_weights import ZERO_POINT
from rexit.exporter.graph.passes import (
    APPROXIMATE,
    DOMAIN,
    MICROSOFT,
    Body,
    argument,
    call,
    constant,
    define,
    define_called,
    is_bias,
    parameters,
    producer,
    replace,
)

MULTIPLY = "MultiplyRows"
"""Inputs quantized [..., T, K], its scale [..., T, 1], weight, column scales [N], offsets [N]; output [..., T, N]."""
MULTIPLY_ADD = "MultiplyAddRows"
"""Inputs as MultiplyRows and residual [..., T, N] or [N]."""
MULTIPLY_SWIGLU = "MultiplySwiGLUQuantizeRows"
"""Inputs quantized and its scale, then weight, column scales and offsets of gate, and of up; outputs like QuantizeRows."""
MULTIPLY_GEGLU = "MultiplyGeGLUQuantizeRows"
"""As MultiplySwiGLUQuantizeRows; attribute approximate, as Gelu's."""
MULTIPLY_GELU = "MultiplyGELUQuantizeRows"
"""Inputs as MultiplyRows, bias [N] and factor [N]; attribute approximate, as Gelu's; outputs like QuantizeRows."""
MULTIPLY_ADD_LAYER_NORM = "MultiplyAddLayerNormQuantizeRows"
"""Inputs as MultiplyRows, bias [N], then as AddLayerNormQuantizeRows from the residual on; attribute and outputs as its."""
COLUMNS, DEPTH = 16, 4


def pack_weights(model: ir.Model) -> ir.Model:
    """Changes the model in place and returns it."""
    graph = model.graph
    weights: dict[ir.Value, list[ir.Value]] = {}
    for node in list(graph):
        if (fused := _fused(graph, node, weights)) is not None:
            replace(graph, node, [fused])
    for node in list(graph):
        if (fused := _fused_with_bias(node)) is not None:
            replace(graph, node, [fused])
    define_called(model, DEFINITIONS)
    return model


@dataclass(frozen=True)
class _Product:
    """An int8 product that a single node reads: its input, the weight's numbers [K, N] and its column scales."""

    quantized: ir.Value
    weight: ir.Value
    numbers: NDArray[np.int8]
    columns: ir.Value


def _fused(graph: ir.Graph, node: ir.Node, weights: dict[ir.Value, list[ir.Value]]) -> ir.Node | None:
    """What the node becomes, by rule 1."""
    inputs = [value for value in node.inputs if value is not None]
    if (node.domain, node.op_type) == ("", "Mul"):
        scaled = scaled_product(node.outputs[0])
        if scaled and (product := _product_of(scaled[0])):
            return call(MULTIPLY, [product.quantized, scaled[1], *_packed(graph, product, weights)])
    elif (node.domain, node.op_type) == (DOMAIN, SCALE_ADD):
        value, scale, residual = inputs
        if product := _product_of(value):
            return call(MULTIPLY_ADD, [product.quantized, scale, *_packed(graph, product, weights), residual])
    elif node.domain == DOMAIN and node.op_type in (SWIGLU, GEGLU):
        gate, up, scale = inputs
        products = [product for value in (gate, up) if (product := _product_of(value))]
        if len(products) == 2:
            packed = [value for product in products for value in _packed(graph, product, weights)]
            attributes = {name: node.attributes.get_string(name) for name in node.attributes}
            name = MULTIPLY_SWIGLU if node.op_type == SWIGLU else MULTIPLY_GEGLU
            return call(name, [products[0].quantized, scale, *packed], outputs=2, **attributes)
    return None


def _fused_with_bias(node: ir.Node) -> ir.Node | None:
    """What a GELUQuantizeRows or AddLayerNormQuantizeRows becomes, by rule 1."""
    if node.domain != DOMAIN or node.op_type not in (GELU, ADD_LAYER_NORM):
        return None
    x, *others = node.inputs
    product = producer(x, MULTIPLY_ADD, reads=1, domain=DOMAIN)
    bias = product.inputs[-1] if product is not None else None
    if product is None or bias is None or not is_bias(bias, product.outputs[0]):
        return None
    inputs = [value for value in (*product.inputs, *others) if value is not None]
    if node.op_type == GELU:
        return call(MULTIPLY_GELU, inputs, outputs=2, approximate=node.attributes.get_string(APPROXIMATE))
    return call(MULTIPLY_ADD_LAYER_NORM, inputs, outputs=3, epsilon=node.attributes.get_float("epsilon"))


def _product_of(value: ir.Value) -> _Product | None:
    """The product, by rule 2."""
    node = value.producer()
    if node is None or (node.domain, node.op_type) != (MICROSOFT, "MatMulIntegerToFloat"):
        return None
    quantized, weight, _, columns = node.inputs[:4]
    if quantized is None or weight is None or weight.const_value is None or columns is None:
        return None
    if len(value.uses()) != 1 or value.is_graph_output():
        return None
    numbers = weight.const_value.numpy()
    return None if numbers.shape[0] % DEPTH or numbers.shape[1] % COLUMNS else _Product(quantized, weight, numbers, columns)


def _packed(graph: ir.Graph, product: _Product, weights: dict[ir.Value, list[ir.Value]]) -> list[ir.Value]:
    """Weight, column scales and offsets."""
    weight = product.weight
    if weight not in weights:
        offsets = (-ZERO_POINT * product.numbers.sum(0, dtype=np.int64)).astype(np.int32)
        weights[weight] = [
            constant(graph, f"{weight.name}.packed", pack(product.numbers)),
            constant(graph, f"{weight.name}.offset", offsets),
        ]
    packed, offset = weights[weight]
    return [packed, product.columns, offset]


def pack(values: NDArray[np.int8]) -> NDArray[np.int8]:
    """[K, N] as [N / 16, K / 4, 16, 4]."""
    depth, columns = values.shape
    blocks = values.reshape(depth // DEPTH, DEPTH, columns // COLUMNS, COLUMNS)
    return np.ascontiguousarray(blocks.transpose(2, 0, 3, 1))


def _product(body: Body, quantized: ir.Value, weight: ir.Value, columns: ir.Value) -> ir.Value:
    """MatMulIntegerToFloat by the unpacked weight."""
    shape = body.add("Concat", body.constant([-1]), body.add("Shape", columns), axis=0)
    values = body.add("Reshape", body.add("Transpose", weight, perm=ir.AttrInt64s("perm", [1, 3, 0, 2])), shape)
    one, zero = body.constant(np.float32(1)), body.constant(np.uint8(ZERO_POINT))
    return body.add("MatMulIntegerToFloat", quantized, values, one, columns, zero, domain=MICROSOFT)


def define_multiply(model: ir.Model) -> None:
    """MultiplyRows."""
    body, inputs = Body(), parameters("quantized", "scale", "weight", "columns", "offsets")
    quantized, scale, weight, columns, _ = inputs
    define(model, MULTIPLY, inputs, body, [body.add("Mul", _product(body, quantized, weight, columns), scale)])


def define_multiply_add(model: ir.Model) -> None:
    """MultiplyAddRows."""
    body, inputs = Body(), parameters("quantized", "scale", "weight", "columns", "offsets", "residual")
    define(model, MULTIPLY_ADD, inputs, body, [_multiply_add(body, inputs)])


def define_multiply_gelu(model: ir.Model) -> None:
    """MultiplyGELUQuantizeRows."""
    body, inputs = Body(), parameters("quantized", "scale", "weight", "columns", "offsets", "bias", "factor")
    passed = {APPROXIMATE: argument(APPROXIMATE, APPROXIMATE, ir.AttributeType.STRING)}
    quantized = body.node(GELU, _multiply_add(body, inputs[:6]), inputs[6], domain=DOMAIN, outputs=2, **passed)
    define(model, MULTIPLY_GELU, inputs, body, quantized.outputs, [APPROXIMATE])


def define_multiply_add_layer_norm(model: ir.Model) -> None:
    """MultiplyAddLayerNormQuantizeRows."""
    names = ("quantized", "scale", "weight", "columns", "offsets", "bias", "residual", "norm_weight", "norm_bias", "factor")
    body, inputs = Body(), parameters(*names)
    passed = {"epsilon": argument("epsilon", "epsilon")}
    normed = body.node(ADD_LAYER_NORM, _multiply_add(body, inputs[:6]), *inputs[6:], domain=DOMAIN, outputs=3, **passed)
    define(model, MULTIPLY_ADD_LAYER_NORM, inputs, body, normed.outputs, ["epsilon"])


def _multiply_add(body: Body, inputs: list[ir.Value]) -> ir.Value:
    """What MultiplyAddRows computes."""
    quantized, scale, weight, columns, _, bias = inputs
    return body.add(SCALE_ADD, _product(body, quantized, weight, columns), scale, bias, domain=DOMAIN)


def define_swiglu(model: ir.Model) -> None:
    """MultiplySwiGLUQuantizeRows."""
    _define_gated(model, MULTIPLY_SWIGLU, SWIGLU, [])


def define_geglu(model: ir.Model) -> None:
    """MultiplyGeGLUQuantizeRows."""
    _define_gated(model, MULTIPLY_GEGLU, GEGLU, [APPROXIMATE])


def _define_gated(model: ir.Model, name: str, gated: str, attributes: list[str]) -> None:
    body = Body()
    inputs = parameters("quantized", "scale", "gate", "gate_columns", "gate_offsets", "up", "up_columns", "up_offsets")
    quantized, scale, gate, gate_columns, _, up, up_columns, _ = inputs
    products = [_product(body, quantized, weight, columns) for weight, columns in ((gate, gate_columns), (up, up_columns))]
    passed = {name: argument(name, name, ir.AttributeType.STRING) for name in attributes}
    define(model, name, inputs, body, body.node(gated, *products, scale, domain=DOMAIN, outputs=2, **passed).outputs, attributes)


DEFINITIONS = {
    MULTIPLY: define_multiply,
    MULTIPLY_ADD: define_multiply_add,
    MULTIPLY_SWIGLU: define_swiglu,
    MULTIPLY_GEGLU: define_geglu,
    MULTIPLY_GELU: define_multiply_gelu,
    MULTIPLY_ADD_LAYER_NORM: define_multiply_add_layer_norm,
}
