"""Refuses operators that the oldest supported TensorRT, JetPack 6's 10.3, cannot parse.

The table is the parser's own (`docs/operators.md` of onnx-tensorrt, release 10.1, the last before 10.3). The compiler in the
tests is newer and supports more, so it would not notice.
"""

from __future__ import annotations

import onnx_ir as ir

from rexit.errors import CheckpointError
from rexit.exporter.graph.passes.nodes import is_constant

_FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16})
_WHOLE = frozenset({ir.DataType.INT32, ir.DataType.INT64})
_BOOL = frozenset({ir.DataType.BOOL})
_SMALL = frozenset({ir.DataType.INT8, ir.DataType.INT4})
_ANY = _FLOATS | _WHOLE | _BOOL

OPERATORS: dict[str, tuple[frozenset[ir.DataType], str]] = {
    # arithmetic of norms, activations, masks and rotary embeddings
    "Abs": (_FLOATS | _WHOLE, "activations"),
    "Add": (_FLOATS | _WHOLE, "residuals, biases, masks"),
    "Clip": (_FLOATS, "activations"),
    "Cos": (_FLOATS, "rotary angles"),
    "CumSum": (_FLOATS | _WHOLE, "positions, as floats; its axis is constant"),
    "Div": (_FLOATS | _WHOLE, "scales, soft-capping"),
    "Erf": (_FLOATS, "gelu"),
    "Exp": (_FLOATS, "activations"),
    "LayerNormalization": (_FLOATS, "norms; its first output alone"),
    "Max": (_FLOATS | _WHOLE, "bounds"),
    "Min": (_FLOATS | _WHOLE, "bounds"),
    "Mul": (_FLOATS | _WHOLE, "norms, gates, rotation"),
    "Neg": (_FLOATS | _WHOLE, "rotation"),
    "Pow": (_FLOATS, "norms, gelu"),
    "Reciprocal": (_FLOATS, "norms"),
    "ReduceMean": (_FLOATS | _WHOLE, "norms; axes are constant"),
    "ReduceSum": (_FLOATS | _WHOLE, "norms; axes are constant"),
    "Relu": (_FLOATS | _WHOLE, "activations"),
    "Sigmoid": (_FLOATS, "silu"),
    "Sin": (_FLOATS, "rotary angles"),
    "Softmax": (_FLOATS, "attention"),
    "Softplus": (_FLOATS, "activations"),
    "Sqrt": (_FLOATS, "norms"),
    "Sub": (_FLOATS | _WHOLE, "norms, distances of positions"),
    "Tanh": (_FLOATS, "gelu, soft-capping"),
    # products
    "Gemm": (_FLOATS, "heads"),
    "MatMul": (_FLOATS, "linear layers, attention"),
    # the mask
    "And": (_BOOL, "the mask"),
    "Equal": (_FLOATS | _WHOLE, "own group"),
    "Greater": (_FLOATS | _WHOLE, "sliding windows"),
    "GreaterOrEqual": (_FLOATS | _WHOLE, "sliding windows"),
    "Less": (_FLOATS | _WHOLE, "sliding windows"),
    "LessOrEqual": (_FLOATS | _WHOLE, "not later"),
    "Not": (_BOOL, "the mask"),
    "Or": (_BOOL, "the mask"),
    "Range": (_FLOATS | _WHOLE, "order of tokens"),
    "Where": (_ANY, "the mask"),
    # moving and shaping
    "Cast": (_ANY, "changes of type"),
    "Concat": (_ANY, "the prefix's keys and values before the new ones"),
    "ConstantOfShape": (_ANY, "the prefix is visible"),
    "Expand": (_ANY, "keys and values shared by heads"),
    "Gather": (_ANY, "token embeddings"),
    "GatherElements": (_FLOATS | _WHOLE, "positions"),
    "GatherND": (_ANY, "rows the head reads"),
    "Identity": (_ANY, "left by exporters"),
    "Reshape": (_ANY, "heads"),
    "Shape": (_ANY, "dynamic sizes"),
    "Slice": (_ANY, "rotation, dynamic sizes; axes are constant"),
    "Split": (_ANY, "joint projections"),
    "Squeeze": (_ANY, "axes are constant"),
    "Tile": (_ANY, "keys and values shared by heads"),
    "Transpose": (_ANY, "heads"),
    "Unsqueeze": (_ANY, "axes are constant"),
    # 8 and 4 bits
    "DequantizeLinear": (_FLOATS | _SMALL, "zero points are zero"),
    "QuantizeLinear": (_FLOATS | _SMALL, "zero points are zero"),
}
"""By operator: allowed types of inputs, and the part of a decoder that needs it, with the parser's restriction."""

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
            if value is not None and value.dtype not in known[0]:
                kind = "an unknown type" if value.dtype is None else value.dtype.name
                raise CheckpointError(f"node {node.name}: JetPack 6's TensorRT has no {name} of {kind} ({value.name})")
        axes = CONSTANT_AXES.get(node.op_type)
        if axes is not None and axes < len(node.inputs) and node.inputs[axes] is not None and not is_constant(node.inputs[axes]):
            raise CheckpointError(f"node {node.name}: JetPack 6's TensorRT needs constant axes in {name}")
    return model
