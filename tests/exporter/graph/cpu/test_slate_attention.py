"""SlateAttention against the attention it replaces: the same answers for any groups, in every family; other attention stays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from builders.models.checkpoints import FAMILIES
from builders.models.encoders import FAMILIES as ENCODERS
from builders.onnx_graphs.graphs import count, run
from builders.onnx_graphs.segments import feed, traced
from rexit.exporter.graph.cpu.slate_attention import NO_WINDOW, slate_attention
from rexit.exporter.graph.passes.tidy import tidy
from running.fast import fast

SPLIT = {
    **dict.fromkeys(FAMILIES, 2),
    # Sliding windows: Mistral and Phi-3 have them in every layer, Gemma 3 here in layers 0 and 1; Gemma 2 caps its scores.
    **dict.fromkeys(("mistral", "phi3", "gemma3_text", "gemma2"), 0),
}
"""Layers of two that are changed."""


def check(model: ir.Model, prefix: int, sizes: list[int], folder: Path) -> None:
    """The pass changes the model in place, and no answer."""
    arrays = feed(model, prefix, sizes)
    expected = run(model, arrays, folder)
    actual = run(tidy(slate_attention(model)), arrays, folder)
    for name, output in expected.items():
        np.testing.assert_allclose(actual[name], output, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("family", fast(FAMILIES, "llama"))
def test_every_family(family: str, tmp_path: Path) -> None:
    model = traced(family)
    before = count(model)["Attention"]
    check(model, 5, [4, 1, 7], tmp_path)
    assert before - count(model)["Attention"] == SPLIT[family]
    assert count(model)["SlateAttention"] == SPLIT[family]


@pytest.mark.parametrize("family", fast(ENCODERS, "modernbert"))
def test_an_encoder_sees_its_whole_group(family: str, tmp_path: Path) -> None:
    model = traced(family, k=1, begin=1, end=4)  # ModernBERT's layer 2 is global, 1 and 3 have windows
    check(model, 0, [14, 1, 7, 30], tmp_path)
    windows = [node.attributes.get_float("window") for node in model.graph if node.op_type == "SlateAttention"]
    assert windows == [NO_WINDOW if n % 2 == 0 or family != "modernbert" else 5 for n in (1, 2, 3)]


@pytest.mark.parametrize("prefix", [0, 1, 33])
@pytest.mark.parametrize("sizes", [[1], [9], [1, 1, 1], [3, 3, 3], [8, 1, 2, 5]])
def test_any_prefix_and_groups(prefix: int, sizes: list[int], tmp_path: Path) -> None:
    check(traced(), prefix, sizes, tmp_path)


@pytest.mark.parametrize("change", ["past", "window", "softcap", "no groups"])
def test_another_attention_stays(change: str) -> None:
    model = traced()
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
