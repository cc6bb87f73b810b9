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
