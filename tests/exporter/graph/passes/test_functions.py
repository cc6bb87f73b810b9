"""Functions of rexit's domain: what their bodies compute, against NumPy; how bodies are built."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from builders.onnx_graphs.function_graphs import Case, cases, one_node
from builders.onnx_graphs.graphs import run
from rexit.exporter.graph.passes.functions import DOMAIN, VERSION, Body, argument, define, parameters
from rexit.exporter.graph.passes.tidy import tidy


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_bodies_compute_what_numpy_does(case: Case, tmp_path: Path) -> None:
    case.check(run(tidy(case.model), case.feed, tmp_path))


def test_equal_constants_are_made_once() -> None:
    body = Body()
    number = body.constant([1])
    assert body.constant([1]) is number
    assert len({id(body.constant(n)) for n in (1, [1], [[1]], np.float32(1), [2])} | {id(number)}) == 5
    assert [node.op_type for node in body.nodes] == ["Constant"] * 5


def test_each_call_has_its_own_attributes(tmp_path: Path) -> None:
    text = """segment (float[N] x) => (float[N] y, float[N] z) {
      y = rexit.Leak <slope = 0.5> (x)
      z = rexit.Leak <slope = 0.25> (x)
    }"""

    def leak(model: ir.Model) -> None:
        body, (x,) = Body(), parameters("x")
        out = body.add("LeakyRelu", x, alpha=argument("alpha", "slope"))
        define(model, "Leak", [x], body, [out], ["slope"])

    model = tidy(one_node(text, leak))
    assert model.opset_imports[DOMAIN] == VERSION
    actual = run(model, {"x": np.array([-4, 4], np.float32)}, tmp_path)
    assert (actual["y"].tolist(), actual["z"].tolist()) == ([-2, 4], [-1, 4])
