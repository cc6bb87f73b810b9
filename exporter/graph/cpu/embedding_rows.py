"""Token embeddings in int8 with a scale per row, `row = scale * q`, |q| <= 127, or in bfloat16. Looked-up rows are float32.

A table is a constant float32 matrix that a Gather reads rows of. Its other readers keep the float32 matrix.
"""

from __future__ import annotations

from collections.abc import Iterator

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from rexit.exporter.graph.linear.round_weights import LARGEST
from rexit.exporter.graph.passes.nodes import array, constant, is_constant, is_weight, replace


def embedding_rows_int8(model: ir.Model) -> ir.Model:
    """Changes the model in place and returns it."""
    for node, table in _tables(model):
        values, scales = quantize_rows(array(table))
        rows = ir.node("Gather", [constant(model.graph, f"{table.name}.int8", values), node.inputs[1]])
        scale = ir.node("Gather", [constant(model.graph, f"{table.name}.scale", scales), node.inputs[1]])
        cast = ir.node("Cast", [rows.outputs[0]], {"to": ir.DataType.FLOAT})
        replace(model.graph, node, [rows, scale, cast, ir.node("Mul", [cast.outputs[0], scale.outputs[0]])])
    return model


def embedding_rows_bfloat16(model: ir.Model) -> ir.Model:
    """Changes the model in place and returns it."""
    for node, table in _tables(model):
        rounded = constant(model.graph, f"{table.name}.bfloat16", array(table).astype(ml_dtypes.bfloat16))
        rows = ir.node("Gather", [rounded, node.inputs[1]])
        replace(model.graph, node, [rows, ir.node("Cast", [rows.outputs[0]], {"to": ir.DataType.FLOAT})])
    return model


def quantize_rows(table: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Rounds a table [V, H]. Returns int8 [V, H] and scales float32 [V, 1]."""
    scale = np.abs(table).max(1, keepdims=True) / np.float32(LARGEST)
    scale[scale == 0] = 1
    return np.rint(table / scale).astype(np.int8), scale.astype(np.float32)


def _tables(model: ir.Model) -> Iterator[tuple[ir.Node, ir.Value]]:
    for node in list(model.graph):
        if node.op_type == "Gather" and node.attributes.get_int("axis", 0) == 0:
            table, rows = node.inputs
            if table is not None and is_weight(table) and not is_constant(rows):
                yield node, table
