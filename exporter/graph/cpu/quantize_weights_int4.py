"""Linear layers with 4-bit weights in blocks along K, using ONNX Runtime's MatMulNBits. Heads stay float32.

    w[k, n] = scale[n, k / BLOCK] * (q[k, n] - 8)        q in 0 … 15, two to a byte, the lower k in the low half

1. The scale is the best of several (`four_bits`).
2. The largest weight of a block maps to -8, the longer side of the range.
3. Accuracy level 4: ONNX Runtime rounds inputs to int8 as well, per token and block.

K must be a multiple of BLOCK.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from rexit.exporter.graph.linear.four_bits import best_scale, rounded
from rexit.exporter.graph.linear.linear import Linear, layers_to_quantize
from rexit.exporter.graph.passes.nodes import MICROSOFT, array, constant, replace

BLOCK = 32
_CLIPS = np.linspace(0.7, 1.1, 9, dtype=np.float32)


def quantize_weights_int4(model: ir.Model) -> ir.Model:
    """Changes the model in place and returns it. Raises CheckpointError for a weight that is not divisible into blocks."""
    for linear in layers_to_quantize(model, "int4", BLOCK):
        _multiply(model.graph, linear)
    model.graph.opset_imports[MICROSOFT] = 1
    return model


def quantize_blocks(weight: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Rounds a weight [K, N]. Returns uint8 [N, K / BLOCK, BLOCK / 2] for MatMulNBits and scales float32 [N, K / BLOCK]."""
    blocks = weight.T.reshape(weight.shape[1], -1, BLOCK)
    outermost = np.take_along_axis(blocks, np.abs(blocks).argmax(2, keepdims=True), 2)
    scales = (outermost * (clip / -8) for clip in _CLIPS)
    scale = best_scale(blocks, (np.where(tried == 0, np.float32(1), tried) for tried in scales), 2)
    values = (rounded(blocks, scale) + 8).astype(np.uint8)
    packed: NDArray[np.uint8] = np.bitwise_or(values[..., 0::2], np.left_shift(values[..., 1::2], 4), dtype=np.uint8)
    return packed, scale[..., 0]


def _multiply(graph: ir.Graph, linear: Linear) -> None:
    rows, columns = array(linear.weight).shape
    packed, scales = quantize_blocks(array(linear.weight))
    weight = constant(graph, f"{linear.weight.name}.int4", packed)
    scale = constant(graph, f"{linear.weight.name}.scale", scales)
    attributes = {"K": rows, "N": columns, "bits": 4, "block_size": BLOCK, "accuracy_level": 4}
    product = ir.node("MatMulNBits", [linear.input, weight, scale], attributes, domain=MICROSOFT)
    replace(graph, linear.node, [product])
