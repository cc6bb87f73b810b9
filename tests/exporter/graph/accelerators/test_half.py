"""What the half pass leaves in float32, and that types fit everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from builders.models.checkpoints import tiny_heads, tiny_model
from rexit.errors import CheckpointError
from rexit.exporter.graph.accelerators.half import halved
from rexit.exporter.graph.linear.linear import heads
from rexit.exporter.graph.segment import SegmentModule
from rexit.exporter.graph.targets import Target, find_target
from rexit.exporter.graph.trace import derive_segment, export_segment
from rexit.exporter.model.decoder import Decoder
from running.fast import fast

FP16 = find_target("tensorrt", "fp16")
FAMILIES = {
    "llama": {},
    "gemma2": {},  # norms that scale by 1 + weight, soft-capped scores, a norm before each residual sum, sliding windows
    "qwen3": {},  # norms of queries and keys
    "gpt2": {},  # LayerNormalization, Gemm, learned positions
    "phi": {},  # half of each head rotated
    "olmo2": {},
}


def _feed(path: Path, seed: int = 0) -> dict[str, Any]:
    """Random inputs in the graph's types: a prefix of 5, two candidates of 3."""
    random = np.random.default_rng(seed)
    feed: dict[str, Any] = {
        "tokens": random.integers(0, 200, 6),
        "positions": np.array([5, 6, 7, 5, 6, 7]),
        "groups": np.array([0, 0, 0, 1, 1, 1]),
        "rows": np.array([2, 5]),
    }
    out = {}
    for value in ort.InferenceSession(path).get_inputs():
        dtype = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}[value.type]
        if value.name in feed:
            out[value.name] = feed[value.name]
        else:
            shape = [6, 64] if value.name == "hidden_in" else [value.shape[0], 5, value.shape[2]]
            out[value.name] = random.standard_normal(shape).astype(np.float32).astype(dtype)
    return out


@pytest.fixture(scope="module", params=fast(FAMILIES, "llama"))
def segment(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A family's first two layers: the float32 graph and the half one."""
    decoder = Decoder.of(tiny_model(request.param, **FAMILIES[request.param]))
    module = SegmentModule(decoder, tiny_heads(decoder, 2), 0, 0, 2).eval()
    exact, half = (tmp_path_factory.mktemp(name) for name in ("exact", "half"))
    assert FP16.base is not None
    described = derive_segment(export_segment(module, 0, FP16.base, exact), exact, FP16, half)
    assert (described.hidden_dtype, described.cache_dtype) == ("float16", "float16")
    return exact / described.graph, half / described.graph


def test_every_operator_has_one_float_type(segment: tuple[Path, Path]) -> None:
    onnx.checker.check_model(segment[1], full_check=True)
    model = ir.load(segment[1])
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
        if node.op_type in ("Softmax", "LayerNormalization", "ReduceMean", "Sqrt", "Sin", "Cos"):
            assert node.outputs[0].dtype == ir.DataType.FLOAT, node
        if node.op_type == "MatMul":
            angles = any(reader.op_type in ("Sin", "Cos", "Transpose") for reader in node.outputs[0].consumers())
            assert angles or node in projections or node.outputs[0].dtype == ir.DataType.FLOAT16, node


def test_it_computes_what_float32_computes(segment: tuple[Path, Path]) -> None:
    feed = _feed(segment[1])
    exact = {name: value.astype(np.float32) if value.dtype == np.float16 else value for name, value in feed.items()}
    expected, actual = ort.InferenceSession(segment[0]).run(None, exact), ort.InferenceSession(segment[1]).run(None, feed)
    for exact_value, other in zip(expected, actual, strict=True):
        np.testing.assert_allclose(other.astype(np.float32), exact_value, atol=0.02 * max(1.0, float(np.abs(exact_value).max())))


@pytest.mark.slow
def test_a_weight_beyond_half(tmp_path: Path) -> None:
    decoder = Decoder.of(tiny_model())
    decoder.layers[1].mlp.up_proj.weight.data[3, 4] = -70000.0
    module = SegmentModule(decoder, tiny_heads(decoder, 2), 0, 0, 2).eval()
    assert FP16.base is not None
    described = export_segment(module, 0, FP16.base, tmp_path)
    with pytest.raises(CheckpointError, match=r"fp16: .* holds 70000, float16 ends at 65504"):
        derive_segment(described, tmp_path, FP16, tmp_path)


def test_rounding() -> None:
    lowest = np.finfo(np.float32).min
    np.testing.assert_array_equal(
        halved(np.array([1.0, lowest, 65519.0], np.float32), "w"), np.array([1, -65504, 65504], np.float16)
    )


def test_targets_share_their_float32_graphs() -> None:
    bases: dict[str, set[Target]] = {}
    from rexit.exporter.graph.targets import TARGETS

    for target in TARGETS:
        bases.setdefault(target.name, set()).add(target.base or target)
    assert all(len(dtypes) == 1 for dtypes in bases.values())
