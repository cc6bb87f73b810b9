"""Keys and values in half or int8 between passes: what a pass computes from them and gives out, in every family."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from builders.models.checkpoints import FAMILIES
from builders.onnx_graphs.graphs import Arrays, count, run
from builders.onnx_graphs.segments import exported, feed
from rexit.exporter.graph.cpu.slate_attention import NAME
from rexit.exporter.graph.cpu.stored_cache import DEQUANTIZE, QUANTIZE, SCALES, half_cache, int8_cache
from rexit.exporter.graph.passes.functions import DOMAIN, call
from rexit.exporter.graph.passes.tidy import tidy
from running.fast import fast

PREFIX = 5
Store = Callable[[ir.Model], ir.Model]
STORES = (half_cache, int8_cache)


@pytest.fixture(scope="module", params=fast(FAMILIES, "llama"))
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp(request.param), request.param)


def _feed(model: ir.Model, rows: list[int], past: Arrays) -> Arrays:
    """These rows of a prefix of 5, behind the tokens of `past`, or behind none."""
    whole = feed(model, 0, [PREFIX])
    arrays = {name: whole[name][rows] for name in ("hidden_in", "positions", "groups")} | {"rows": np.array([len(rows) - 1])}
    return arrays | {name: past.get(name.replace("past", "new"), array) for name, array in whole.items() if name not in arrays}


def read(numbers: Any) -> Any:
    """The stored numbers as float32."""
    if numbers.dtype != np.int8:
        return numbers.astype(np.float32)
    return numbers[..., :-1].astype(np.float32) * SCALES[numbers[..., -1:].astype(int) + 128]


@pytest.mark.parametrize(
    ("store", "dtype", "close"), [(half_cache, np.float16, 2e-3), (int8_cache, np.int8, 0.05)], ids=["half", "int8"]
)
def test_a_pass_gives_what_is_stored(path: Path, tmp_path: Path, store: Store, dtype: Any, close: float) -> None:
    before, model = ir.load(path), tidy(store(ir.load(path)))
    expected = run(before, _feed(before, [0, 1, 2, 3, 4], {}), tmp_path)
    actual = run(model, _feed(model, [0, 1, 2, 3, 4], {}), tmp_path)
    assert list(actual) == list(expected)
    for name, numbers in expected.items():
        assert actual[name].dtype == (dtype if name.startswith("new_") else np.float32)
        # In int8 within half a step of the row's largest number.
        np.testing.assert_allclose(read(actual[name]), numbers, rtol=close, atol=close, err_msg=name)


@pytest.mark.parametrize("store", STORES)
def test_a_copied_start_changes_nothing(path: Path, tmp_path: Path, store: Store) -> None:
    """But the order of sums. Keys that a pass attended to in float32 would be 2^-12 off."""
    model = tidy(store(ir.load(path)))
    whole = run(model, _feed(model, [0, 1, 2, 3, 4], {}), tmp_path)
    start = run(model, _feed(model, [0, 1, 2], {}), tmp_path)
    grown = run(model, _feed(model, [3, 4], start), tmp_path)
    np.testing.assert_allclose(grown["hidden"], whole["hidden"][3:], atol=2e-6)
    np.testing.assert_allclose(grown["logits"], whole["logits"], atol=2e-6)


@pytest.mark.parametrize(
    ("store", "dtype"), [(half_cache, ir.DataType.FLOAT16), (int8_cache, ir.DataType.INT8)], ids=["half", "int8"]
)
def test_only_keys_and_values_are_stored(path: Path, tmp_path: Path, store: Store, dtype: ir.DataType) -> None:
    before, model = ir.load(path), tidy(store(ir.load(path)))
    assert len(model.graph.inputs) == 8
    for value in (*model.graph.inputs, *model.graph.outputs):
        assert (value.dtype == dtype) == str(value.name).startswith(("past_", "new_")), value
    # What the kernel reads, nothing converts first.
    kernels = [node for node in model.graph if node.op_type == NAME]
    assert len(kernels) == count(before)[NAME]
    for node in kernels:
        for stored in node.inputs[1:5]:
            assert stored is not None and stored.dtype == dtype
    after = count(model)
    converted = after["Cast"] - count(before)["Cast"] + after[QUANTIZE] + after[DEQUANTIZE]
    assert converted == 4 + 4 * (2 - len(kernels))  # four outputs; what each layer without the kernel reads
    ir.save(model, tmp_path / "graph.onnx", external_data="graph.onnx.data")
    onnx.checker.check_model(str(tmp_path / "graph.onnx"), full_check=True)


def _stored(x: Any, tmp_path: Path) -> Any:
    """QuantizeCache's body on rows x."""
    value = ir.Value(name="x", shape=ir.Shape([None, x.shape[1]]), type=ir.TensorType(ir.DataType.FLOAT))
    node = call(QUANTIZE, [value])
    node.outputs[0].name, node.outputs[0].type = "y", ir.TensorType(ir.DataType.INT8)
    node.outputs[0].shape = ir.Shape([None, x.shape[1] + 1])
    graph = ir.Graph([value], node.outputs, nodes=[node], opset_imports={"": 23, DOMAIN: 1}, name="rows")
    model = int8_cache(ir.Model(graph, ir_version=10))
    return run(model, {"x": x}, tmp_path)["y"]


def test_a_row_takes_the_least_scale_that_holds_it(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((200, 32)).astype(np.float32) * np.exp2(np.arange(-100, 100))[:, None] / 3
    x = x.astype(np.float32)
    actual = _stored(x, tmp_path)
    most, exponent = np.abs(x).max(1), actual[:, -1].astype(int)
    scales = SCALES[exponent + 128]
    inside = (most <= 127 * SCALES[-1]) & (most > 127 * SCALES[1])
    assert 100 > inside.sum() > 20
    assert (most[inside] <= 127 * scales[inside]).all() and (most[inside] > 127 * SCALES[exponent + 127][inside]).all()
    assert (exponent[most > 127 * SCALES[-1]] == 127).all() and (exponent[most <= 127 * SCALES[1]] == -127).all()
    np.testing.assert_array_equal(actual[:, :-1], np.clip(np.rint(x / scales[:, None]), -127, 127))


@pytest.mark.parametrize("lost", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_reads_as_nan(tmp_path: Path, lost: float) -> None:
    x = np.ones((3, 16), np.float32)
    x[1, 7] = lost
    actual = read(_stored(x, tmp_path))
    assert np.isnan(actual[1]).all() and np.isfinite(actual[[0, 2]]).all()
