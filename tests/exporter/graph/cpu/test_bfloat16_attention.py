"""Attention in bfloat16: which nodes change, and how far that moves a pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from builders.models.checkpoints import tiny_heads, tiny_model
from builders.onnx_graphs.graphs import Arrays, count, run
from rexit.exporter.graph.cpu.bfloat16_attention import ROUNDED, bfloat16_attention
from rexit.exporter.graph.cpu.slate_attention import NAME
from rexit.exporter.graph.cpu.stored_cache import half_cache, int8_cache
from rexit.exporter.graph.passes.tidy import tidy
from rexit.exporter.graph.segment import SegmentModule
from rexit.exporter.graph.targets import find_target
from rexit.exporter.graph.trace import export_segment
from rexit.exporter.model.decoder import Decoder


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Layers 1 and 2 of four as the float32 variant has them."""
    decoder = Decoder.of(tiny_model("llama"))
    module = SegmentModule(decoder, tiny_heads(decoder, 3), 1, 1, 3).eval()
    folder = tmp_path_factory.mktemp("llama")
    return folder / export_segment(module, 1, find_target("cpu", "fp32"), folder).graph


@pytest.mark.parametrize("store", [half_cache, int8_cache])
def test_every_attention_is_rounded(path: Path, tmp_path: Path, store: object) -> None:
    before, model = tidy(store(ir.load(path))), tidy(bfloat16_attention(store(ir.load(path))))  # type: ignore[operator]
    assert (count(model)[ROUNDED], count(model)[NAME]) == (count(before)[NAME], 0) == (2, 0)
    assert ROUNDED in {function.name for function in model.functions.values()}
    assert NAME not in {function.name for function in model.functions.values()}
    tokens = 5
    feed: Arrays = {"hidden_in": np.random.default_rng(0).standard_normal((tokens, 64)).astype(np.float32)}
    feed |= {"positions": np.arange(tokens), "groups": np.zeros(tokens, np.int64), "rows": np.array([tokens - 1])}
    for value in model.graph.inputs:
        if value.name not in feed:
            assert value.shape is not None and value.dtype is not None and value.name is not None
            feed[value.name] = np.zeros((value.shape[0], 0, value.shape[2]), value.dtype.numpy())
    expected, actual = run(before, feed, tmp_path), run(model, feed, tmp_path)
    distance = np.abs(actual["hidden"] - expected["hidden"]).max()
    assert 1e-6 < distance < 0.02 * np.abs(expected["hidden"]).max()


def test_other_attention_stays(path: Path) -> None:
    model = ir.load(path)
    for node in model.graph:
        if node.op_type == NAME:
            node.op_type = "Attention"
    before = count(model)
    assert count(bfloat16_attention(model)) == before


def test_which_variants_are_rounded() -> None:
    rounded = [
        target.variant
        for target in (find_target("cpu", p) for p in ("fp32", "bf16", "int8", "int4"))
        if bfloat16_attention in target.passes
    ]
    assert rounded == ["cpu-bf16", "cpu-int8"]
