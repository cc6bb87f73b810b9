"""Keys and values in half between passes: what a pass computes from them and gives out, in every family."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from builders.checkpoints import FAMILIES, tiny_heads, tiny_model
from builders.graphs import Arrays, count, run
from rexit.exporter.graph.passes.slate_attention import NAME
from rexit.exporter.graph.passes.tidy import tidy
from rexit.exporter.graph.precision.half_cache import half_cache
from rexit.exporter.graph.segment import SegmentModule
from rexit.exporter.graph.targets import find_target
from rexit.exporter.graph.trace import export_segment
from rexit.exporter.model.decoder import Decoder

PREFIX = 5


@pytest.fixture(scope="module", params=FAMILIES)
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A family's layers 1 and 2 of four as the float32 variant has them: a segment in the middle, with hidden states."""
    decoder = Decoder.of(tiny_model(request.param))
    module = SegmentModule(decoder, tiny_heads(decoder, 3), 1, 1, 3).eval()
    folder = tmp_path_factory.mktemp(request.param)
    return folder / export_segment(module, 1, find_target("cpu", "fp32"), folder).graph


def _feed(model: ir.Model, rows: list[int], past: Arrays) -> Arrays:
    """These rows of a prefix of 5, behind the tokens of `past`, or behind none."""
    hidden = np.random.default_rng(0).standard_normal((PREFIX, 64)).astype(np.float32)
    feed: Arrays = {"hidden_in": hidden[rows], "positions": np.array(rows), "groups": np.zeros(len(rows), np.int64)}
    feed["rows"] = np.array([len(rows) - 1])
    for value in model.graph.inputs:
        if value.name not in feed:
            assert value.shape is not None and value.dtype is not None and value.name is not None
            empty = np.zeros((value.shape[0], 0, value.shape[2]), value.dtype.numpy())
            feed[value.name] = past.get(value.name.replace("past", "new"), empty)
    return feed


def test_a_pass_gives_halves(path: Path, tmp_path: Path) -> None:
    before, model = ir.load(path), tidy(half_cache(ir.load(path)))
    expected = run(before, _feed(before, [0, 1, 2, 3, 4], {}), tmp_path)
    seen = run(model, _feed(model, [0, 1, 2, 3, 4], {}), tmp_path)
    assert list(seen) == list(expected)
    for name, numbers in expected.items():
        assert seen[name].dtype == (np.float16 if name.startswith("new_") else np.float32)
        np.testing.assert_allclose(seen[name], numbers, rtol=2e-3, atol=2e-3, err_msg=name)


def test_a_copied_start_changes_nothing(path: Path, tmp_path: Path) -> None:
    """But the order of sums. Keys that a pass attended to in float32 would be 2^-12 off."""
    model = tidy(half_cache(ir.load(path)))
    whole = run(model, _feed(model, [0, 1, 2, 3, 4], {}), tmp_path)
    start = run(model, _feed(model, [0, 1, 2], {}), tmp_path)
    grown = run(model, _feed(model, [3, 4], start), tmp_path)
    np.testing.assert_allclose(grown["hidden"], whole["hidden"][3:], atol=2e-6)
    np.testing.assert_allclose(grown["logits"], whole["logits"], atol=2e-6)


def test_only_keys_and_values_are_half(path: Path, tmp_path: Path) -> None:
    before, model = ir.load(path), tidy(half_cache(ir.load(path)))
    assert len(model.graph.inputs) == 8
    for value in (*model.graph.inputs, *model.graph.outputs):
        assert (value.dtype == ir.DataType.FLOAT16) == str(value.name).startswith(("past_", "new_")), value
    # What the kernel reads, nothing converts first.
    kernels = [node for node in model.graph if node.op_type == NAME]
    assert len(kernels) == count(before)[NAME]
    for node in kernels:
        for stored in node.inputs[1:5]:
            assert stored is not None and stored.dtype == ir.DataType.FLOAT16
    casts = count(model)["Cast"] - count(before)["Cast"]
    assert casts == 4 + 4 * (2 - len(kernels))  # four outputs; what each layer without the kernel reads
    ir.save(model, tmp_path / "graph.onnx", external_data="graph.onnx.data")
    onnx.checker.check_model(str(tmp_path / "graph.onnx"), full_check=True)


def test_no_pass_copies_what_it_only_hands_over(path: Path) -> None:
    model = tidy(half_cache(ir.load(path)))
    for value in model.graph.outputs:
        if str(value.name).startswith("new_"):
            squeeze = value.producer()
            assert squeeze is not None and squeeze.op_type == "Squeeze"
            assert squeeze.inputs[0] is not None and (made := squeeze.inputs[0].producer()) is not None
            assert made.op_type == "Cast"
