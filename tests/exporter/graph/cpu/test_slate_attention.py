"""SlateAttention against the attention it replaces: the same answers for any groups, in every family; other attention stays."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx_ir as ir
import pytest

from builders.models.encoders import FAMILIES as ENCODERS
from builders.onnx_graphs.graphs import assert_same, count
from builders.onnx_graphs.segments import feed, traced
from rexit.exporter.graph.cpu.slate_attention import ENCODER, NAME, NO_WINDOW, slate_attention
from rexit.exporter.graph.passes import tidy
from running.fast import fast


@pytest.mark.medium
@pytest.mark.parametrize("family", fast(ENCODERS, "modernbert"))
def test_an_encoder_sees_its_whole_group(family: str, tmp_path: Path) -> None:
    before, model = (traced(family, k=1, begin=1, end=4) for _ in range(2))  # ModernBERT's layers 1 and 3 have windows
    assert_same(before, tidy(slate_attention(model)), feed(before, 0, [14, 1, 7, 30]), tmp_path, atol=1e-5)
    nodes = [node for node in model.graph if node.op_type in (NAME, ENCODER)]
    expected = [NO_WINDOW if n % 2 == 0 or family != "modernbert" else 5 for n in (1, 2, 3)]
    assert [node.attributes.get_float("window") for node in nodes] == expected
    nodes = Counter(node.op_type for node in tidy(model).graph)
    assert (nodes[NAME], nodes[ENCODER], nodes["Transpose"]) == (0, 3, 0)
    assert nodes["RotaryEmbedding"] == (6 if family == "modernbert" else 0)


@pytest.mark.medium
@pytest.mark.parametrize("change", ["order", "output", "reader"])
def test_what_is_not_exchanged_stays_as_it_is(change: str, tmp_path: Path) -> None:
    before, model = (traced(ENCODERS[0], k=1, begin=1, end=3) for _ in range(2))
    for graph in (before.graph, model.graph):
        attention = next(node for node in graph if node.op_type == "Attention")
        exchange = attention.outputs[0].uses()[0].node
        if change == "order":
            exchange.attributes["perm"] = ir.AttrInt64s("perm", [0, 2, 3, 1])
        elif change == "output":
            graph.outputs.append(attention.outputs[0])
        else:
            again = ir.node("Neg", [attention.outputs[0]])
            graph.insert_after(attention, again)
            graph.outputs.append(again.outputs[0])
            out = again.outputs[0]
            out.name, out.type, out.shape = "negated", attention.outputs[0].type, attention.outputs[0].shape
    nodes = Counter(node.op_type for node in tidy(slate_attention(model)).graph)
    assert (nodes[NAME], nodes[ENCODER]) == (1, 1)
    assert_same(before, model, feed(before, 0, [14, 1, 7, 30]), tmp_path, atol=1e-5)


@pytest.mark.medium
@pytest.mark.parametrize("prefix", [0, 1, 33])
@pytest.mark.parametrize("sizes", [[1], [9], [1, 1, 1], [3, 3, 3], [8, 1, 2, 5]])
def test_any_prefix_and_groups(prefix: int, sizes: list[int], tmp_path: Path) -> None:
    assert_same(traced(), tidy(slate_attention(traced())), feed(traced(), prefix, sizes), tmp_path, atol=1e-5)


@pytest.mark.medium
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
