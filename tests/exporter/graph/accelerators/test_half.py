"""What the half pass leaves in float32, and that types fit everywhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from builders.onnx_graphs.segments import feed, segment
from rexit.errors import CheckpointError
from rexit.exporter.graph.accelerators import halved
from rexit.exporter.graph.linear_layers import heads
from rexit.exporter.graph.targets import find_target
from rexit.exporter.graph.trace import derive_segment, export_segment
from running.fast import fast

FP16 = find_target("tensorrt", "fp16")
FAMILIES = (
    "llama",
    "gemma2",  # norms that scale by 1 + weight, soft-capped scores, a norm before each residual sum, sliding windows
    "qwen3",  # norms of queries and keys
    "gpt2",  # LayerNormalization, Gemm, learned positions
    "phi",  # half of each head rotated
    "olmo2",
    "roberta",  # counts of tokens
)


@pytest.fixture(scope="module", params=fast(FAMILIES, "llama"))
def graphs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A family's first two layers: the float32 graph and the half one."""
    exact, half = (tmp_path_factory.mktemp(name) for name in ("exact", "half"))
    assert FP16.base is not None
    described = derive_segment(export_segment(segment(request.param), 0, FP16.base, exact), exact, FP16, half)
    assert (described.hidden_dtype, described.cache_dtype) == ("float16", "float16")
    return exact / described.graph, half / described.graph


@pytest.mark.medium
def test_every_operator_has_one_float_type(graphs: tuple[Path, Path]) -> None:
    onnx.checker.check_model(graphs[1], full_check=True)
    model = ir.load(graphs[1])
    for node in model.graph:
        floats = {
            v.dtype
            for v in (*node.inputs, *node.outputs)
            if v is not None and v.dtype is not None and v.dtype.is_floating_point()
        }
        assert len(floats) <= (2 if node.op_type == "Cast" else 1), f"{node.op_type} {node.name}: {floats}"
    types = {value.name: value.dtype for value in (*model.graph.inputs, *model.graph.outputs)}
    assert types.pop("logits") == ir.DataType.FLOAT
    assert set(types.values()) == {ir.DataType.INT64, ir.DataType.FLOAT16}
    assert model.opset_imports == {"": 18}
    projections = heads(model)
    for node in model.graph:
        if node.op_type in ("Softmax", "LayerNormalization", "ReduceMean", "Sqrt", "Sin", "Cos", "CumSum"):
            assert node.outputs[0].dtype == ir.DataType.FLOAT, node
        if node.op_type == "MatMul":
            angles = any(reader.op_type in ("Sin", "Cos", "Transpose") for reader in node.outputs[0].consumers())
            assert angles or node in projections or node.outputs[0].dtype == ir.DataType.FLOAT16, node


@pytest.mark.medium
def test_it_computes_what_float32_computes(graphs: tuple[Path, Path]) -> None:
    half = feed(ir.load(graphs[1]), 5, [3, 3])
    exact = {name: value.astype(np.float32) if value.dtype == np.float16 else value for name, value in half.items()}
    expected, actual = ort.InferenceSession(graphs[0]).run(None, exact), ort.InferenceSession(graphs[1]).run(None, half)
    for exact_value, other in zip(expected, actual, strict=True):
        np.testing.assert_allclose(other.astype(np.float32), exact_value, atol=0.02 * max(1.0, float(np.abs(exact_value).max())))


def test_rounding() -> None:
    lowest = np.finfo(np.float32).min
    np.testing.assert_array_equal(
        halved(np.array([1.0, lowest, 65519.0], np.float32), "w"), np.array([1, -65504, 65504], np.float16)
    )
    with pytest.raises(CheckpointError, match="fp16: w holds 70000, float16 ends at 65504"):
        halved(np.array([1.0, -70000.0], np.float32), "w")
