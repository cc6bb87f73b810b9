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


def _feed(model: ir.Model) -> Arrays:
    """A prefix of 5, two candidates of 3; pasts in the graph's type, each a number that half holds."""
    random = np.random.default_rng(0)
    feed: Arrays = {"hidden_in": random.standard_normal((6, 64)).astype(np.float32)}
    feed |= {"positions": np.array([5, 6, 7, 5, 6, 7]), "groups": np.array([0, 0, 0, 1, 1, 1]), "rows": np.array([2, 5])}
    for value in model.graph.inputs:
        if value.name not in feed:
            assert value.shape is not None and value.dtype is not None
            numbers = random.standard_normal((value.shape[0], PREFIX, value.shape[2])).astype(np.float16)
            feed[str(value.name)] = numbers.astype(value.dtype.numpy())
    return feed


def test_a_pass_computes_the_same_and_gives_halves(path: Path, tmp_path: Path) -> None:
    expected = run(ir.load(path), _feed(ir.load(path)), tmp_path)
    model = tidy(half_cache(ir.load(path)))
    seen = run(model, _feed(model), tmp_path)
    assert list(seen) == list(expected)
    for name, numbers in expected.items():
        if name.startswith("new_"):
            assert seen[name].dtype == np.float16
            # Rounded once, from a number whose last bit may differ.
            np.testing.assert_allclose(seen[name], numbers, rtol=1e-3, atol=1e-5, err_msg=name)
        else:
            assert seen[name].dtype == np.float32
            np.testing.assert_allclose(seen[name], numbers, atol=2e-5, err_msg=name)


def test_only_keys_and_values_are_half(path: Path, tmp_path: Path) -> None:
    before, model = ir.load(path), tidy(half_cache(ir.load(path)))
    assert len(model.graph.inputs) == 8
    for value in (*model.graph.inputs, *model.graph.outputs):
        assert (value.dtype == ir.DataType.FLOAT16) == str(value.name).startswith(("past_", "new_")), value
    # Where the kernel reads the past, nothing converts it first.
    kernels = [node for node in model.graph if node.op_type == NAME]
    assert len(kernels) == count(before)[NAME]
    for node in kernels:
        for past in node.inputs[3:5]:
            assert past is not None and past.dtype == ir.DataType.FLOAT16
    casts = count(model)["Cast"] - count(before)["Cast"]
    assert casts == 4 + 2 * (2 - len(kernels))  # four outputs; the past of each layer without the kernel
    ir.save(model, tmp_path / "graph.onnx", external_data="graph.onnx.data")
    onnx.checker.check_model(str(tmp_path / "graph.onnx"), full_check=True)


def test_no_pass_copies_what_it_only_hands_over(path: Path) -> None:
    model = tidy(half_cache(ir.load(path)))
    for value in model.graph.outputs:
        if str(value.name).startswith("new_"):
            cast = value.producer()
            assert cast is not None and cast.op_type == "Cast"
            assert cast.inputs[0] is not None and (made := cast.inputs[0].producer()) is not None
            assert made.op_type == "Squeeze"
