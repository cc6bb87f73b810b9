"""Keys and values in half between passes: what a pass computes from them and gives out, in every family."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from builders.models.checkpoints import FAMILIES
from builders.onnx_graphs.graphs import Arrays, count, run
from builders.onnx_graphs.segments import exported, feed
from rexit.exporter.graph.cpu.slate_attention import NAME, half_cache
from rexit.exporter.graph.passes import tidy
from running.fast import fast

PREFIX = 5


@pytest.fixture(scope="module", params=fast(FAMILIES, "llama"))
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp(request.param), request.param)


def _feed(model: ir.Model, rows: list[int], past: Arrays) -> Arrays:
    """These rows of a prefix of 5, behind the tokens of `past`, or behind none."""
    whole = feed(model, 0, [PREFIX])
    arrays = {name: whole[name][rows] for name in ("hidden_in", "positions", "groups")} | {"rows": np.array([len(rows) - 1])}
    return arrays | {name: past.get(name.replace("past", "new"), array) for name, array in whole.items() if name not in arrays}


@pytest.mark.medium
def test_a_pass_gives_what_is_stored(path: Path, tmp_path: Path) -> None:
    before, model = ir.load(path), tidy(half_cache(ir.load(path)))
    expected = run(before, _feed(before, [0, 1, 2, 3, 4], {}), tmp_path)
    actual = run(model, _feed(model, [0, 1, 2, 3, 4], {}), tmp_path)
    assert list(actual) == list(expected)
    for name, numbers in expected.items():
        assert actual[name].dtype == (np.float16 if name.startswith("new_") else np.float32)
        np.testing.assert_allclose(actual[name].astype(np.float32), numbers, rtol=2e-3, atol=2e-3, err_msg=name)


@pytest.mark.medium
def test_a_copied_start_changes_nothing(path: Path, tmp_path: Path) -> None:
    """But the order of sums. Keys that a pass attended to in float32 would be 2^-12 off."""
    model = tidy(half_cache(ir.load(path)))
    whole = run(model, _feed(model, [0, 1, 2, 3, 4], {}), tmp_path)
    start = run(model, _feed(model, [0, 1, 2], {}), tmp_path)
    grown = run(model, _feed(model, [3, 4], start), tmp_path)
    np.testing.assert_allclose(grown["hidden"], whole["hidden"][3:], atol=2e-6)
    np.testing.assert_allclose(grown["logits"], whole["logits"], atol=2e-6)


@pytest.mark.medium
def test_only_keys_and_values_are_stored(path: Path, tmp_path: Path) -> None:
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
    converted = count(model)["Cast"] - count(before)["Cast"]
    assert converted == 4 + 4 * (2 - len(kernels))  # four outputs; what each layer without the kernel reads
    ir.save(model, tmp_path / "graph.onnx", external_data="graph.onnx.data")
    onnx.checker.check_model(str(tmp_path / "graph.onnx"), full_check=True)
