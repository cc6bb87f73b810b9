"""Changes the opset: QuantizeLinear and DequantizeLinear support float16 from 19 on, 4-bit blocks from 21 on.

Runs before they are inserted: shapes and types are inferred by the graph's opset.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
from onnxscript.version_converter import ConvertVersionPass


def opset(version: int) -> Callable[[ir.Model], ir.Model]:
    """A pass that converts a model to this version in place and returns it."""

    def converted(model: ir.Model) -> ir.Model:
        out = ConvertVersionPass(version)(model).model
        assert out.opset_imports[""] == version
        return out

    return converted


to_opset_19, to_opset_21 = opset(19), opset(21)
