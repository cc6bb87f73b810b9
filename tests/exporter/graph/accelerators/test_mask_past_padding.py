"""Rows behind the prefix are masked: whatever finite numbers they hold, and the past is never empty."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from builders.models.checkpoints import tiny_heads, tiny_model
from builders.onnx_graphs.graphs import Arrays, run
from rexit.errors import CheckpointError
from rexit.exporter.graph.accelerators.mask_past_padding import mask_past_padding
from rexit.exporter.graph.passes.tidy import tidy
from rexit.exporter.graph.segment import SegmentModule
from rexit.exporter.graph.targets import find_target
from rexit.exporter.graph.trace import describe, trace
from rexit.exporter.model.decoder import Decoder
from running.fast import fast

OPSETS = {"tensorrt": 18, "cuda": 23}
PREFIX = 5


@cache
def traced(family: str, target: str) -> bytes:
    base = find_target(target, "fp16").base
    assert base is not None and base.past_padding
    decoder = Decoder.of(tiny_model(family))
    segment = SegmentModule(decoder, tiny_heads(decoder, 2), 0, 0, 2).eval()
    return bytes(ir.serde.serialize_model(tidy(trace(segment, describe(segment, 0, base), base.opset))).SerializeToString())


def model(family: str, target: str) -> ir.Model:
    import onnx

    return ir.serde.deserialize_model(onnx.ModelProto.FromString(traced(family, target)))


def feed(graph: ir.Graph, prefix: int) -> Arrays:
    random = np.random.default_rng(prefix)
    sizes = (3, 4)
    arrays: dict[str, NDArray[np.generic]] = {
        "tokens": np.arange(7) + 3,
        "positions": np.concatenate([np.arange(size) + prefix for size in sizes]),
        "groups": np.repeat(np.arange(2), sizes),
        "rows": np.array([2, 6]),
    }
    for value in graph.inputs:
        if value.name is not None and value.name.startswith("past_"):
            assert value.shape is not None
            heads, width = value.shape[0], value.shape[2]
            assert isinstance(heads, int) and isinstance(width, int)
            arrays[value.name] = random.standard_normal((heads, prefix, width)).astype(np.float32)
    return arrays


def padded(arrays: Arrays, rows: int) -> Arrays:
    """With rows of large numbers behind the prefix."""
    return {
        name: np.pad(value, ((0, 0), (0, rows), (0, 0)), constant_values=100.0) if name.startswith("past_") else value
        for name, value in arrays.items()
    }


@pytest.mark.parametrize("target", fast(OPSETS, "tensorrt"))
@pytest.mark.parametrize("family", fast(["llama", "gemma3_text", "gpt2"], "llama"))
def test_padding_changes_nothing(family: str, target: str, tmp_path: Path) -> None:
    unmasked, masked = model(family, target), mask_past_padding(model(family, target))
    for prefix in (0, PREFIX):
        arrays = feed(masked.graph, prefix)
        expected = run(unmasked, arrays, tmp_path)
        for rows in (0, 1, 27):
            if prefix + rows == 0:
                continue
            for name, value in run(masked, padded(arrays, rows), tmp_path).items():
                if rows == 0:
                    np.testing.assert_array_equal(value, expected[name], err_msg=f"{name} behind {prefix}")
                else:  # sums in another order
                    np.testing.assert_allclose(value, expected[name], atol=1e-5, err_msg=f"{name} behind {prefix} and {rows}")


def test_what_is_not_masked_twice() -> None:
    with pytest.raises(CheckpointError, match="the mask of the prefix is not recognized: 0 nodes expand it, expected 1"):
        mask_past_padding(mask_past_padding(model("llama", "tensorrt")))
