"""TensorRT's own compiler takes the graphs and does with them what they were made for. Compiled, not run: there is no GPU."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from rexit.bundle import Bundle, Engine, EngineSegment
from rexit.exporter.engine import engine_builder
from rexit.exporter.engine.builder_process import BuilderProcess
from rexit.exporter.engine.compile import compile_engines

PROFILES = 2
"""For a prefix, and behind one."""
LAYERS = (1, 1, 2)
"""Decoder layers of each segment; each has engine layers of its own in every profile."""
PRODUCTS = 4
"""Of one decoder layer: queries, keys and values together; the attention's output; gate and up together; down."""


@pytest.fixture(scope="module")
def engines(tensorrt_exported: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[EngineSegment, ...]]:
    """Of each precision, for the oldest GPU in wide use that has it."""
    bundle = Path(shutil.copytree(tensorrt_exported, tmp_path_factory.mktemp("engines") / "bundle"))
    built = {}
    for capability, precisions in (("8.6", ("fp16", "int8", "int4")), ("8.9", ("fp8",))):
        report = compile_engines(bundle, [f"tensorrt-{p}" for p in precisions], compute_capability=capability)
        built |= {p: Engine.read(Path(v.folder)).segments for p, v in zip(precisions, report.variants, strict=True)}
    return built


@pytest.mark.parametrize("k", range(3))
@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "int8", "fp8"])
def test_products_have_the_precision_and_attention_is_fused(
    engines: dict[str, tuple[EngineSegment, ...]], precision: str, k: int
) -> None:
    summary = engines[precision][k].summary
    assert summary[f"{precision} gemm"] == PRODUCTS * LAYERS[k] * PROFILES, summary
    assert summary["fp32 gemm"] == PROFILES, summary  # the head
    assert fused(summary) == LAYERS[k] * PROFILES, summary


@pytest.mark.parametrize("k", range(3))
@pytest.mark.slow
def test_int4_weights_stay_int4(engines: dict[str, tuple[EngineSegment, ...]], k: int) -> None:
    """Until the product that reads them, or a layer that unpacks them for it."""
    summary = engines["int4"][k].summary
    assert summary.get("int4 gemm", 0) + summary.get("int4 dequantize", 0) == PRODUCTS * LAYERS[k] * PROFILES, summary
    assert fused(summary) == LAYERS[k] * PROFILES, summary


def fused(summary: dict[str, int]) -> int:
    return sum(count for kind, count in summary.items() if "mha" in kind)


def request(graph: Path, plan: Path, profiles: list[dict[str, tuple[int, int, int]]], capability: str) -> dict[str, Any]:
    """What `rexit compile` asks of a builder."""
    paths = {"graph": str(graph), "plan": str(plan), "timing_cache": None, "workspace_bytes": None}
    return {"do": "build", "builder": "tensorrt_rtx", "profiles": profiles, "compute_capability": capability, **paths}


def sizes(graph: Path, tokens: Any, prefix: Any, rows: Any) -> dict[str, tuple[int, int, int]]:
    names = [value.name for value in onnx.load(graph, load_external_data=False).graph.input]
    return {name: rows if name == "rows" else prefix if name.startswith("past_") else tokens for name in names}


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "int8", "int4"])
def test_profiles_are_built_as_asked(
    tensorrt_exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    """As the compiler tells what it built: a past of one row, and no input in the host's memory."""
    lines: list[str] = []
    make_log = engine_builder._make_log

    def keep(trt: Any) -> Any:
        class Kept(type(make_log(trt))):  # type: ignore[misc]
            def log(self, severity: Any, message: str) -> None:
                lines.extend(message.splitlines())
                super().log(severity, message)

        return Kept()

    monkeypatch.setattr(engine_builder, "_make_log", keep)
    opened = Bundle.open(tensorrt_exported, f"tensorrt-{precision}")
    graph = opened.folder / opened.variant.segments[1].graph
    prefixes = [(1, 1, 1), (1, 30, 64)]
    profiles = [sizes(graph, (1, 30, 64), prefix, (1, 4, 64)) for prefix in prefixes]
    engine_builder._build(request(graph, tmp_path / "plan", profiles, "8.6"), lambda *_, **__: None)
    inputs = [line for line in lines if "IOMode: Input" in line]
    pasts = [line for line in inputs if "Name: past_" in line]
    assert len(inputs) == 6 and len(pasts) == 2
    for line in pasts:
        shapes = re.findall(r"(?:Min|Opt|Max)Shape: \[\d+,(\d+),\d+\]", line)
        assert [int(size) for size in shapes] == [size for prefix in prefixes for size in prefix], line
    for line in inputs:
        assert "Location: Device" in line and "IsShapeInferenceIO: false" in line


def refusal(arguments: dict[str, Any]) -> str:
    """The builder's last event, which says that it did not take the graph."""
    with BuilderProcess(sys.executable, arguments) as builder:
        *_, last = builder.events()
    assert (last["event"], last["kind"]) == ("failed", "graph"), last
    return str(last["text"])


def test_fp8_needs_a_newer_gpu(tensorrt_exported: Path, tmp_path: Path) -> None:
    """Why `rexit compile` does not even ask."""
    opened = Bundle.open(tensorrt_exported, "tensorrt-fp8")
    graph = opened.folder / opened.variant.segments[0].graph
    profiles = [sizes(graph, (1, 20, 64), (1, 30, 64), (1, 4, 64))]
    assert refusal(request(graph, tmp_path / "plan", profiles, "8.6"))


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
    path = tmp_path / "mixed.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    profiles = [dict.fromkeys(("hidden_in", "wide"), (1, 20, 64))]
    assert "Half" in refusal(request(path, tmp_path / "plan", profiles, "8.6"))
