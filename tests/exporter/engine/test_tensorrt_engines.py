"""TensorRT's own compiler takes the graphs and does with them what they were made for. Compiled, not run: there is no GPU."""

from __future__ import annotations

import re
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from engines import PROFILES, Engine, RefusedError, build
from rexit.bundle import Bundle

SEGMENTS = tuple(len(PROFILES) * layers for layers in (1, 1, 2))
"""Decoder layers of each segment, over all profiles: each has engine layers of its own."""
PRODUCTS = 4
"""Of one decoder layer: queries, keys and values together; the attention's output; gate and up together; down."""


def _engine(bundle: Path, precision: str, k: int, capability: str) -> Engine:
    opened = Bundle.open(bundle, f"tensorrt-{precision}")
    return build(opened.folder / opened.variant.segments[k].graph, capability)


def _products(engine: Engine, dtype: str) -> int:
    """How many layers multiply by a constant matrix and read their first input in `dtype`."""
    found = 0
    for line in engine.layers:
        first = re.search(r"Inputs: \[ \{[^}]*Datatype: (\w+)", line)
        if first and first[1] == dtype and ("LayerType: gemm" in line or re.search(r"Name: __myl_\w*Fc\w*_myl", line)):
            found += 1
    return found


@pytest.mark.parametrize("k", range(3))
@pytest.mark.parametrize(
    ("precision", "capability", "dtype"), [("fp16", "SM86", "Half"), ("int8", "SM86", "Int8"), ("fp8", "SM89", "FP8")]
)
def test_products_have_the_precision_and_attention_is_fused(
    tensorrt_exported: Path, precision: str, capability: str, dtype: str, k: int
) -> None:
    engine = _engine(tensorrt_exported, precision, k, capability)
    assert _products(engine, dtype) == PRODUCTS * SEGMENTS[k], "\n".join(engine.layers)
    assert _products(engine, "Float") == len(PROFILES)  # the head
    assert engine.count("_gemm_mha") == SEGMENTS[k]


@pytest.mark.parametrize("k", range(3))
def test_int4_weights_stay_int4(tensorrt_exported: Path, k: int) -> None:
    engine = _engine(tensorrt_exported, "int4", k, "SM86")
    constants = [found for line in engine.layers for found in re.findall(r"Constants: \[(.*?)\], Outputs", line)]
    small = sum(found.count("Datatype: Int4") for found in constants)
    assert small >= 3 * SEGMENTS[k], "\n".join(engine.layers)
    assert engine.count("_gemm_mha") == SEGMENTS[k]


@pytest.mark.parametrize("precision", ["fp16", "int8", "int4"])
def test_an_empty_prefix_stays_empty(tensorrt_exported: Path, precision: str) -> None:
    """The least of 0 is not raised to 1, as the compiler tells what it built; and it keeps all inputs in the GPU's memory."""
    engine = _engine(tensorrt_exported, precision, 1, "SM86")
    pasts = [line for line in engine.inputs if "Name: past_" in line]
    assert len(engine.inputs) == 6 and len(pasts) == 2
    for line in pasts:
        shapes = re.findall(r"(?:Min|Opt|Max)Shape: \[\d+,(\d+),\d+\]", line)
        assert [int(size) for size in shapes] == [size for sizes in PROFILES for size in sizes["P"]], line
    for line in engine.inputs:
        assert "Location: Device" in line and "IsShapeInferenceIO: false" in line


def test_fp8_needs_a_newer_gpu(tensorrt_exported: Path) -> None:
    with pytest.raises(RefusedError):
        _engine(tensorrt_exported, "fp8", 0, "SM86")


def test_the_compiler_refuses_what_is_not_strongly_typed(tmp_path: Path) -> None:
    """The reason for every Cast: if this were taken, the tests above would show less than they seem to."""
    graph = helper.make_graph(
        [helper.make_node("Mul", ["hidden_in", "wide"], ["y"])],
        "mixed",
        [
            helper.make_tensor_value_info("hidden_in", TensorProto.FLOAT16, ["T", 4]),
            helper.make_tensor_value_info("wide", TensorProto.FLOAT, ["T", 4]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, ["T", 4])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), tmp_path / "mixed.onnx")
    with pytest.raises(RefusedError):
        build(tmp_path / "mixed.onnx")
