"""Changes the opset: QuantizeLinear and DequantizeLinear support float16 from 19 on, 4-bit blocks from 21 on.

Runs before they are inserted: shapes and types are inferred by the graph's opset.

Refuses operators that the oldest supported TensorRT, JetPack 6's 10.3, cannot parse.

The table is the parser's own (`docs/operators.md` of onnx-tensorrt, release 10.1, the last before 10.3). The compiler in the
tests is newer and supports more, so it would not notice.

Makes each Gemm of a head a MatMul, then a Sub of its negated bias.

ONNX Runtime's XNNPACK provider takes a Gemm's number of rows from the graph, where it is dynamic here, and fails at the first
run. MatMul and Add would not help: ONNX Runtime makes a Gemm of them. a - (-b) is a + b to the bit.

Masks padding behind the prefix, so that a pass may have more rows of past keys and values than its prefix has tokens.

A pass without a prefix then has one row of padding instead of none. TensorRT's header allows a dimension of 0, but compilers have
raised a profile's minimum of 0 to 1. Passes of similar sizes can be padded to the same size.

The prefix has as many tokens as the first token's position says, since positions continue behind the prefix for every group:

1. Row p of the past is visible if p < positions[0]. torch traced it as always visible, an Expand of true to [T, P].
2. Padding must be finite: attention multiplies it by 0. Without padding the graph computes what it did, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from onnxscript.version_converter import ConvertVersionPass

from rexit.errors import CheckpointError
from rexit.exporter.graph.linear.fold_linear_weights import gemm_bias, is_plain, product_of
from rexit.exporter.graph.linear.linear import heads
from rexit.exporter.graph.passes import array, constant, is_constant, is_filled, producer, replace


def opset(version: int) -> Callable[[ir.Model], ir.Model]:
    """A pass that converts a model to this version in place and returns it."""

    def converted(model: ir.Model) -> ir.Model:
        out = ConvertVersionPass(version)(model).model
        assert out.opset_imports[""] == version
        return out

    return converted


to_opset_19, to_opset_21 = opset(19), opset(21)


_FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16})
_WHOLE = frozenset({ir.DataType.INT32, ir.DataType.INT64})
_BOOL = frozenset({ir.DataType.BOOL})
_SMALL = frozenset({ir.DataType.INT8, ir.DataType.INT4})
_ANY = _FLOATS | _WHOLE | _BOOL

_NUMBERS = _FLOATS | _WHOLE

OPERATORS: dict[str, frozenset[ir.DataType]] = {
    # norms; of LayerNormalization its first output alone
    **dict.fromkeys(("LayerNormalization", "Pow", "Reciprocal", "Sqrt"), _FLOATS),
    **dict.fromkeys(("ReduceMean", "ReduceSum", "Sub"), _NUMBERS),
    # activations, soft-capping, attention, rotary angles
    **dict.fromkeys(("Clip", "Cos", "Erf", "Exp", "Sigmoid", "Sin", "Softmax", "Softplus", "Tanh"), _FLOATS),
    **dict.fromkeys(("Abs", "Add", "CumSum", "Div", "Max", "Min", "Mul", "Neg", "Relu"), _NUMBERS),
    # heads, linear layers, attention
    **dict.fromkeys(("Gemm", "MatMul"), _FLOATS),
    # the mask
    **dict.fromkeys(("And", "Not", "Or"), _BOOL),
    **dict.fromkeys(("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Range"), _NUMBERS),
    "Where": _ANY,
    # moving and shaping
    **dict.fromkeys(("Cast", "Concat", "ConstantOfShape", "Expand", "Gather", "GatherND", "Identity", "Reshape"), _ANY),
    **dict.fromkeys(("Shape", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"), _ANY),
    "GatherElements": _NUMBERS,
    # 8 and 4 bits; zero points are zero
    **dict.fromkeys(("DequantizeLinear", "QuantizeLinear"), _FLOATS | _SMALL),
}
"""Allowed types of inputs, by operator, and what a decoder needs them for."""

CONSTANT_AXES = {"CumSum": 1, "ReduceMean": 1, "ReduceSum": 1, "Slice": 3, "Squeeze": 1, "Unsqueeze": 1}
"""Operators with constant axes: the index of the input that holds them."""


def allowed_operators(model: ir.Model) -> ir.Model:
    """Returns the model unchanged. Raises CheckpointError for the first node that the table does not allow."""
    for node in model.graph:
        known = OPERATORS.get(node.op_type) if node.domain == "" else None
        name = node.op_type if node.domain == "" else f"{node.domain}.{node.op_type}"
        if known is None:
            raise CheckpointError(f"node {node.name}: JetPack 6's TensorRT has no operator {name}")
        for value in node.inputs:
            if value is not None and value.dtype not in known:
                kind = "an unknown type" if value.dtype is None else value.dtype.name
                raise CheckpointError(f"node {node.name}: JetPack 6's TensorRT has no {name} of {kind} ({value.name})")
        axes = CONSTANT_AXES.get(node.op_type)
        if axes is not None and axes < len(node.inputs) and node.inputs[axes] is not None and not is_constant(node.inputs[axes]):
            raise CheckpointError(f"node {node.name}: JetPack 6's TensorRT needs constant axes in {name}")
    return model


def heads_without_gemm(model: ir.Model) -> ir.Model:
    """Changes the model in place and returns it. A Gemm with factors, a transposed input or a computed bias stays."""
    for node in heads(model):
        if node.op_type != "Gemm" or not is_plain(node):
            continue
        bias = gemm_bias(node)
        if bias is not None and not is_constant(bias):
            continue
        nodes = [product_of(model.graph, node)]
        if bias is not None:
            negated = constant(model.graph, f"{bias.name}.negated", -array(bias))
            nodes.append(ir.node("Sub", [nodes[0].outputs[0], negated]))
        replace(model.graph, node, nodes)
    return model


POSITIONS = "positions"
PAST = "past_key_"
_MASKS = ("And", "Equal")


def mask_past_padding(model: ir.Model) -> ir.Model:
    """Changes the model in place and returns it. Raises CheckpointError if the prefix's part of the mask is not recognized."""
    graph = model.graph
    expands = [node for node in graph if _is_visible_prefix(node)]
    if len(expands) != 1:
        raise CheckpointError(f"the mask of the prefix is not recognized: {len(expands)} nodes expand it, expected 1")
    (expand,) = expands
    inputs = {value.name: value for value in graph.inputs if value.name is not None}
    positions = inputs[POSITIONS]
    past = next(value for name, value in inputs.items() if name.startswith(PAST))
    zero, one = (constant(graph, f"mask_past_padding.{name}", np.array(n, np.int64)) for n, name in enumerate(("zero", "one")))
    nodes: list[ir.Node] = []

    def add(op: str, *values: ir.Value, dtype: ir.DataType = ir.DataType.INT64, **attributes: int) -> ir.Value:
        node = ir.node(op, values, attributes)
        out = node.outputs[0]
        out.name, out.dtype = f"mask_past_padding.{op.lower()}", dtype
        nodes.append(node)
        return out

    rows = add("Range", zero, add("Squeeze", add("Shape", past, start=1, end=2)), one)
    prefix_tokens = add("Gather", positions, zero, axis=0)
    visible = add("Less", rows, prefix_tokens, dtype=ir.DataType.BOOL)
    assert past.shape is not None
    visible.shape = ir.Shape([past.shape[1]])
    graph.insert_before(expand, nodes)
    expand.replace_input_with(0, visible)
    return model


def _is_visible_prefix(node: ir.Node) -> bool:
    """Whether the node expands true and is concatenated with the own group's mask: an And's, an encoder's Equal's."""
    shown = node.inputs[0] if node.op_type == "Expand" else None
    if shown is None or shown.dtype != ir.DataType.BOOL or not is_filled(shown, True):
        return False
    joined = (
        reader.inputs[1]
        for reader, _ in node.outputs[0].uses()
        if reader.op_type == "Concat" and reader.inputs[0] is node.outputs[0]
    )
    return any(producer(own, op) is not None for own in joined for op in _MASKS)
