"""Linear layers with 4-bit weights in blocks along K, for TensorRT: a blocked DequantizeLinear before each product.

    w[k, n] = scale[k / BLOCK, n] * q[k, n]        q in -8 … 7, scale > 0 and exact in float16

1. Of several scales, which clip the block's largest weight more or less, the one with the least squared error is used.
2. Symmetric, without a zero point; inputs and products stay float16. Heads are not changed.

K must be a multiple of BLOCK.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from rexit.errors import CheckpointError
from rexit.exporter.graph.passes.nodes import array, constant
from rexit.exporter.graph.precision.linear import Linear, linears
from rexit.exporter.graph.precision.quantize_dequantize import half_scale

BLOCK = 64
_CLIPS = np.linspace(0.7, 1.0, 7, dtype=np.float32)


def dequantize_blocks_int4(model: ir.Model) -> ir.Model:
    """Changes the model in place and returns it. Raises CheckpointError for a weight that is not divisible into blocks."""
    found = linears(model)
    if not found:
        raise CheckpointError("int4: the graph has no linear layer with a constant weight")
    for one in found:
        if (size := array(one.weight).shape[0]) % BLOCK:
            raise CheckpointError(f"int4: {one.weight.name} has {size} rows (K), not divisible into blocks of {BLOCK}")
    for one in found:
        _dequantize(model.graph, one)
    return model


def quantize_blocks(weight: NDArray[np.float32], block: int = BLOCK) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """For a weight [K, N]: integers in -8 … 7 as float32 [K, N], and scales float32 [K / block, N]."""
    blocks = weight.reshape(-1, block, weight.shape[1])
    largest = np.abs(blocks).max(1, keepdims=True)
    best, scale = np.full(largest.shape, np.inf, np.float32), np.ones_like(largest)
    for clip in _CLIPS:
        tried = half_scale(largest * clip, 7.5)
        error = np.square(_round(blocks, tried) * tried - blocks).sum(1, keepdims=True)
        scale, best = np.where(error < best, tried, scale), np.minimum(error, best)
    return _round(blocks, scale).reshape(weight.shape), scale[:, 0]


def _round(blocks: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.float32]:
    rounded: NDArray[np.float32] = np.clip(np.rint(blocks / scale), -8, 7)
    return rounded


def _dequantize(graph: ir.Graph, one: Linear) -> None:
    values, scales = quantize_blocks(array(one.weight))
    name = one.weight.name
    small = constant(graph, f"{name}.int4", values.astype(ml_dtypes.int4))
    scale = constant(graph, f"{name}.scale", scales)
    dequantize = ir.node("DequantizeLinear", [small, scale], {"axis": 0, "block_size": BLOCK})
    out = dequantize.outputs[0]
    out.name, out.shape, out.type = f"{name}.dequantized", one.weight.shape, one.weight.type
    graph.insert_before(one.node, [dequantize])
    one.node.replace_input_with(1, out)
