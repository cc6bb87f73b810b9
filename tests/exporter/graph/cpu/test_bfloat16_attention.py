"""Attention in bfloat16: which nodes change, and how far that moves a pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from builders.onnx_graphs.graphs import count, run
from builders.onnx_graphs.segments import exported, feed
from rexit.exporter.graph.cpu.bfloat16 import ROUNDED, bfloat16_attention
from rexit.exporter.graph.cpu.slate_attention import NAME, half_cache
from rexit.exporter.graph.passes import tidy


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp("llama"))


@pytest.mark.medium
def test_every_attention_is_rounded(path: Path, tmp_path: Path) -> None:
    before, model = tidy(half_cache(ir.load(path))), tidy(bfloat16_attention(half_cache(ir.load(path))))
    assert (count(model)[ROUNDED], count(model)[NAME]) == (count(before)[NAME], 0) == (2, 0)
    assert ROUNDED in {function.name for function in model.functions.values()}
    assert NAME not in {function.name for function in model.functions.values()}
    arrays = feed(model, 0, [5])
    expected, actual = run(before, arrays, tmp_path), run(model, arrays, tmp_path)
    distance = np.abs(actual["hidden"] - expected["hidden"]).max()
    assert 1e-6 < distance < 0.02 * np.abs(expected["hidden"]).max()
