"""Linear layers with 4-bit weights in blocks along K, for TensorRT: a blocked DequantizeLinear before each product.

    w[k, n] = scale[k / BLOCK, n] * q[k, n]        q in -8 … 7, scale > 0 and exact in float16

1. The scale is the best of several (`four_bits`).
2. Symmetric, without a zero point; inputs and products stay float16. Heads do not change.

K must be a multiple of BLOCK.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from rexit.exporter.graph.accelerators.quantize_dequantize import half_scale
from rexit.exporter.graph.linear.four_bits import best_scale, rounded
from rexit.exporter.graph.linear.linear import Linear, layers_to_quantize
from rexit.exporter.graph.passes.nodes import array, constant, describe

BLOCK = 64
_CLIPS = np.linspace(0.7, 1.0, 7, dtype=np.float32)


def dequantize_blocks_int4(model: ir.Model) -> ir.Model:
    """Changes the model in place and returns it. Raises CheckpointError for a weight that is not divisible into blocks."""
    for linear in layers_to_quantize(model, "int4", BLOCK):
        _dequantize(model.graph, linear)
    return model


def quantize_blocks(weight: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Rounds a weight [K, N]. Returns integers in -8 … 7 as float32 [K, N], and scales float32 [K / BLOCK, N]."""
    blocks = weight.reshape(-1, BLOCK, weight.shape[1])
    largest = np.abs(blocks).max(1, keepdims=True)
    scale = best_scale(blocks, (half_scale(largest * clip, 7.5) for clip in _CLIPS), 1)
    return rounded(blocks, scale).reshape(weight.shape), scale[:, 0]


def _dequantize(graph: ir.Graph, linear: Linear) -> None:
    values, scales = quantize_blocks(array(linear.weight))
    name = linear.weight.name
    small = constant(graph, f"{name}.int4", values.astype(ml_dtypes.int4))
    scale = constant(graph, f"{name}.scale", scales)
    dequantize = ir.node("DequantizeLinear", [small, scale], {"axis": 0, "block_size": BLOCK})
    linear.node.replace_input_with(1, describe(dequantize.outputs[0], f"{name}.dequantized", linear.weight))
    graph.insert_before(linear.node, [dequantize])
