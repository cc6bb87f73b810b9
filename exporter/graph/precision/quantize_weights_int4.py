"""Linear layers with 4-bit weights in blocks along K, using ONNX Runtime's MatMulNBits. Heads stay float32.

    w[k, n] = scale[n, k / BLOCK] * (q[k, n] - 8)        q in 0 … 15, two to a byte, the lower k in the low half

1. Of several scales, which clip the block's largest weight more or less, the one with the least squared error is used.
2. The largest weight of a block maps to -8, the side of the range that reaches further.
3. Accuracy level 4: ONNX Runtime rounds inputs to int8 as well, per token and block.

K must be a multiple of BLOCK.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from rexit.errors import CheckpointError
from rexit.exporter.graph.passes.nodes import MICROSOFT, array, constant, replace
from rexit.exporter.graph.precision.linear import Linear, linears

BLOCK = 32
_CLIPS = np.linspace(0.7, 1.1, 9, dtype=np.float32)


def quantize_weights_int4(model: ir.Model) -> ir.Model:
    """Changes the model in place and returns it. Raises CheckpointError for a weight that is not divisible into blocks."""
    found = linears(model)
    if not found:
        raise CheckpointError("int4: the graph has no linear layer with a constant weight")
    for one in found:
        if (size := array(one.weight).shape[0]) % BLOCK:
            raise CheckpointError(f"int4: {one.weight.name} has {size} rows, not divisible into blocks of {BLOCK}")
    for one in found:
        _multiply(model.graph, one)
    model.graph.opset_imports[MICROSOFT] = 1
    return model


def quantize_blocks(weight: NDArray[np.float32], block: int = BLOCK) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """For a weight [K, N]: uint8 [N, K / block, block / 2], packed for MatMulNBits, and scales float32 [N, K / block]."""
    blocks = weight.T.reshape(weight.shape[1], -1, block)
    outermost = np.take_along_axis(blocks, np.abs(blocks).argmax(2, keepdims=True), 2)
    best, scale = np.full(outermost.shape, np.inf, np.float32), np.ones_like(outermost)
    for clip in _CLIPS:
        tried = outermost * (clip / -8)
        tried[tried == 0] = 1
        error = np.square(_round(blocks, tried) * tried - blocks).sum(2, keepdims=True)
        scale, best = np.where(error < best, tried, scale), np.minimum(error, best)
    values = (_round(blocks, scale) + 8).astype(np.uint8)
    packed: NDArray[np.uint8] = np.bitwise_or(values[..., 0::2], np.left_shift(values[..., 1::2], 4), dtype=np.uint8)
    return packed, scale[..., 0]


def _round(blocks: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.float32]:
    rounded: NDArray[np.float32] = np.clip(np.rint(blocks / scale), -8, 7)
    return rounded


def _multiply(graph: ir.Graph, one: Linear) -> None:
    rows, columns = array(one.weight).shape
    packed, scales = quantize_blocks(array(one.weight))
    weight = constant(graph, f"{one.weight.name}.int4", packed)
    scale = constant(graph, f"{one.weight.name}.scale", scales)
    attributes = {"K": rows, "N": columns, "bits": 4, "block_size": BLOCK, "accuracy_level": 4}
    product = ir.node("MatMulNBits", [one.input, weight, scale], attributes, domain=MICROSOFT)
    replace(graph, one.node, [product])
