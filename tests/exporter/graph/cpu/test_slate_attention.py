"""SlateAttention against the attention it stands for: same answers for any groups, in every family; what does not fit stays."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from builders.models.checkpoints import FAMILIES, tiny_heads, tiny_model
from builders.onnx_graphs.graphs import Arrays, count, run
from rexit.exporter.graph.cpu.slate_attention import slate_attention
from rexit.exporter.graph.passes.tidy import tidy
from rexit.exporter.graph.segment import SegmentModule
from rexit.exporter.graph.targets import find_target
from rexit.exporter.graph.trace import describe, trace
from rexit.exporter.model.decoder import Decoder
from running.fast import fast

SPLIT = {
    **dict.fromkeys(FAMILIES, 2),
    # Sliding windows: Mistral and Phi-3 have them in every layer, Gemma 3 here in layers 0 and 1; Gemma 2 caps its scores.
    **dict.fromkeys(("mistral", "phi3", "gemma3_text", "gemma2"), 0),
}
"""Layers of two that are changed."""


@cache
def _traced(family: str) -> bytes:
    decoder = Decoder.of(tiny_model(family))
    segment = SegmentModule(decoder, tiny_heads(decoder, 2), 0, 0, 2).eval()
    model = tidy(trace(segment, describe(segment, 0, find_target("cpu", "fp32")), find_target("cpu", "fp32").opset))
    return bytes(ir.serde.serialize_model(model).SerializeToString())


def _model(family: str = "llama") -> ir.Model:
    import onnx

    return ir.serde.deserialize_model(onnx.ModelProto.FromString(_traced(family)))


def _feed(model: ir.Model, prefix: int, sizes: list[int]) -> Arrays:
    random = np.random.default_rng(0)
    lengths = np.array(sizes)
    feed: Arrays = {"tokens": random.integers(3, 200, lengths.sum()), "rows": lengths.cumsum() - 1}
    # Numbers as they are after compaction: rising, with gaps.
    feed |= {"groups": np.repeat(3 * np.arange(len(sizes)) + 1, lengths)}
    feed |= {"positions": np.concatenate([np.arange(n) + prefix for n in sizes])}
    for value in model.graph.inputs:
        if value.name and value.name.startswith("past_"):
            assert value.shape is not None
            feed[value.name] = random.standard_normal((value.shape[0], prefix, value.shape[2])).astype(np.float32)
    return feed


@pytest.mark.parametrize("family", fast(FAMILIES, "llama"))
def test_every_family(family: str, tmp_path: Path) -> None:
    model = _model(family)
    before = count(model)["Attention"]
    feed = _feed(model, 5, [4, 1, 7])
    expected = run(model, feed, tmp_path)
    actual = run(tidy(slate_attention(model)), feed, tmp_path)
    for name, output in expected.items():
        np.testing.assert_allclose(actual[name], output, atol=1e-5, err_msg=name)
    assert before - count(model)["Attention"] == SPLIT[family]
    assert count(model)["SlateAttention"] == SPLIT[family]


@pytest.mark.parametrize("prefix", [0, 1, 33])
@pytest.mark.parametrize("sizes", [[1], [9], [1, 1, 1], [3, 3, 3], [8, 1, 2, 5]])
def test_any_prefix_and_groups(prefix: int, sizes: list[int], tmp_path: Path) -> None:
    model = _model()
    feed = _feed(model, prefix, sizes)
    expected = run(model, feed, tmp_path)
    actual = run(tidy(slate_attention(model)), feed, tmp_path)
    for name, output in expected.items():
        np.testing.assert_allclose(actual[name], output, atol=1e-5, err_msg=name)


def test_the_mask_of_all_pairs_is_gone() -> None:
    nodes = count(tidy(slate_attention(_model())))
    assert nodes["Attention"] == nodes["Expand"] == nodes["Where"] == 0


@pytest.mark.parametrize("change", ["past", "window", "softcap", "no groups"])
def test_another_attention_stays(change: str) -> None:
    model = _model()
    graph = model.graph
    for node in list(graph):
        if change == "softcap" and node.op_type == "Attention":
            node.attributes["softcap"] = ir.AttrFloat32("softcap", 30.0)
        if change == "past" and node.op_type == "Attention":
            node.replace_input_with(1, node.inputs[1].producer().inputs[1])  # type: ignore[union-attr]
        if change == "window" and node.op_type == "And":
            again = ir.node("And", [node.outputs[0], node.inputs[1]])
            uses = list(node.outputs[0].uses())
            graph.insert_after(node, again)
            for use in uses:
                use.node.replace_input_with(use.idx, again.outputs[0])
    if change == "no groups":
        next(value for value in graph.inputs if value.name == "groups").name = "owner"
    slate_attention(model)
    assert count(model)["Attention"] == 2
