"""Nodes of domain rexit in the runtime: without a body in the graph, so that only a kernel can run them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

import rexit
import tiny_bundle
from rexit.errors import BackendError
from tiny_bundle import ITEM_IDS, USER_IDS

SEGMENT = "variants/cpu-fp32/segment-1.onnx"
ONE_HEAD = "u = Unsqueeze (state, axes01)"  # [1, 1, T, 8]

SOUND = [
    "q, number = rexit.QuantizeRows (state)",
    "w = ReduceMax <keepdims = 0, axes = [0]> (state) \n q, number = rexit.RMSNormQuantizeRows <epsilon = 0.00001> (state, w)",
    "q, s = rexit.QuantizeRows (state) \n r, number = rexit.SwiGLUQuantizeRows (state, state, s)",
    "q, s = rexit.QuantizeRows (state) \n number = rexit.ScaleAddRows (state, s, state)",
    f"{ONE_HEAD} \n number = rexit.SlateAttention <scale = 0.5> (u, u, u, u, u, owner)",
]
"""Each leaves something in `number`."""

REFUSED = {
    "RMSNormQuantizeRows: expected a weight for each column": "w = Reshape (state, flat) \n"
    "q, number = rexit.RMSNormQuantizeRows <epsilon = 0.00001> (state, w)",
    "SwiGLUQuantizeRows: gate, up and scale": "q, number = rexit.SwiGLUQuantizeRows (state, state, state)",
    "ScaleAddRows: product, scale and residual": "w = Reshape (state, flat) \n number = rexit.ScaleAddRows (state, w, w)",
    "QuantizeRows: x has no axis": "w = ReduceMax <keepdims = 0> (state) \n q, number = rexit.QuantizeRows (w)",
    "QuantizeRows: an input has more than four axes": "w = Unsqueeze (state, axes012) \n q, number = rexit.QuantizeRows (w)",
    "SlateAttention: expected [1, heads, tokens, head_dim]": "number = rexit.SlateAttention <scale = 0.5> "
    "(state, state, state, state, state, owner)",
    "SlateAttention: keys and values": f"{ONE_HEAD} \n v = Concat <axis = 2> (u, u) \n"
    "number = rexit.SlateAttention <scale = 0.5> (u, u, v, u, u, owner)",
    "SlateAttention: heads": f"{ONE_HEAD} \n k = Concat <axis = 1> (u, u) \n"
    "number = rexit.SlateAttention <scale = 0.5> (u, k, k, k, k, owner)",
    "SlateAttention: expected a key and a group": f"{ONE_HEAD} \n g = Concat <axis = 0> (owner, owner) \n"
    "number = rexit.SlateAttention <scale = 0.5> (u, u, u, u, u, g)",
}


def _bundle(folder: Path, text: str) -> Path:
    """A bundle whose second segment adds 0 times `number` to its log-odds."""
    out = tiny_bundle.write_bundle(folder)
    model = onnx.load(out / SEGMENT, load_external_data=False)
    added = onnx.parser.parse_graph(
        f"""added (float[T, 8] state, int64[T] owner) => (float nothing) {{
            axes01 = Constant <value = int64[2] {{0, 1}}> ()
            axes012 = Constant <value = int64[3] {{0, 1, 2}}> ()
            flat = Constant <value = int64[1] {{-1}}> ()
            {text}
            largest = ReduceMax <keepdims = 0> (number)
            zero_times = Constant <value = float {{0}}> ()
            nothing = Mul (largest, zero_times)
        }}"""
    )
    names = {name: f"added.{name}" for node in added.node for name in node.output}
    for node in added.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names[name] for name in node.output]
    logits = next(node for node in model.graph.node if "label_logits" in node.output)
    logits.output[:] = ["plain_logits"]
    model.graph.node.extend(added.node)
    model.graph.node.append(onnx.helper.make_node("Add", ["plain_logits", names["nothing"]], ["label_logits"]))
    model.opset_import.append(onnx.helper.make_opsetid("rexit", 1))
    onnx.save(model, out / SEGMENT)
    tiny_bundle.refresh(out)
    return out


@pytest.mark.parametrize("text", SOUND)
def test_kernels_run(text: str, tmp_path: Path) -> None:
    with rexit.open(tiny_bundle.write_bundle(tmp_path / "plain")) as session:
        expected = session.trace(USER_IDS[2], ITEM_IDS)
    with rexit.open(_bundle(tmp_path / "changed", text)) as session:
        np.testing.assert_array_equal(session.trace(USER_IDS[2], ITEM_IDS), expected)


@pytest.mark.parametrize("message", REFUSED)
def test_shapes_that_do_not_fit_are_refused(message: str, tmp_path: Path) -> None:
    with rexit.open(_bundle(tmp_path / "changed", REFUSED[message])) as session:
        with pytest.raises(BackendError) as raised:
            session.score(USER_IDS[2], ITEM_IDS, force_exit=2)
        assert f"rexit.{message}" in str(raised.value)
        assert len(session.score(USER_IDS[2], ITEM_IDS, force_exit=0)) == len(ITEM_IDS)  # the first segment has no such node


def test_a_missing_attribute_is_refused_when_opened(tmp_path: Path) -> None:
    text = "w = ReduceMax <keepdims = 0, axes = [0]> (state) \n q, number = rexit.RMSNormQuantizeRows (state, w)"
    with pytest.raises(BackendError, match=r"segment-1\.onnx.*rexit\.RMSNormQuantizeRows"):
        rexit.open(_bundle(tmp_path / "changed", text))
