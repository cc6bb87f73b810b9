"""Rows behind the prefix are masked: whatever finite numbers they hold, and the past is never empty."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from builders.models.encoders import FAMILIES as ENCODERS
from builders.onnx_graphs.graphs import Arrays, run
from builders.onnx_graphs.segments import feed, traced
from rexit.errors import CheckpointError
from rexit.exporter.graph.accelerators import mask_past_padding
from rexit.exporter.graph.targets import find_target
from running.fast import fast

PREFIX = 5


def model(family: str, target: str) -> ir.Model:
    base = find_target(target, "fp16").base
    assert base is not None and base.past_padding
    return traced(family, base)


def padded(arrays: Arrays, rows: int) -> Arrays:
    """With rows of large numbers behind the prefix."""
    return {
        name: np.pad(value, ((0, 0), (0, rows), (0, 0)), constant_values=100.0) if name.startswith("past_") else value
        for name, value in arrays.items()
    }


@pytest.mark.medium
@pytest.mark.parametrize("target", fast(["tensorrt", "cuda"], "tensorrt"))
@pytest.mark.parametrize("family", fast(["llama", "gemma3_text", "gpt2", "bert", "roberta", "modernbert"], "llama"))
def test_padding_changes_nothing(family: str, target: str, tmp_path: Path) -> None:
    unmasked, masked = model(family, target), mask_past_padding(model(family, target))
    for prefix in (0,) if family in ENCODERS else (0, PREFIX):
        arrays = feed(masked, prefix, [3, 4])
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
