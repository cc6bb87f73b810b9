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

from builders.models.checkpoints import tiny_checkpoint
from rexit.bundle import Bundle, Catalog, Engine
from rexit.exporter.engine import engine_builder
from rexit.exporter.engine.builder_process import BuilderProcess
from rexit.exporter.engine.compile import compile_engines
from rexit.exporter.engine.profiles import optimization_profiles
from rexit.exporter.export import export_bundle
from rexit.exporter.options import ExportOptions

PRECISIONS = ("fp16", "int8", "int4", "fp8")
PRODUCTS = 4
"""Products of a decoder layer: queries, keys and values together; the attention's output; gate and up together; down."""

DEMO: dict[str, Any] = {  # examples/movielens/train.py
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 4096,
    "max_position_embeddings": 1024,
}
SMOLLM2: dict[str, Any] = {  # one of six segments, which have thirty layers
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 5,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "vocab_size": 4096,
    "max_position_embeddings": 8192,
}


def compiled(bundle: Path, precision: str) -> list[dict[str, int]]:
    """What the compiler made of each segment, for the oldest GPU in wide use that has the precision."""
    report = compile_engines(bundle, [f"tensorrt-{precision}"], compute_capability="8.9" if precision == "fp8" else "8.6")
    engine = Engine.read(Path(report.variants[0].folder))
    engine.check(Path(report.variants[0].folder), Bundle.open(bundle, f"tensorrt-{precision}").variant)
    return [segment.summary for segment in engine.segments]


def check(bundle: Path, precision: str, exits: tuple[int, ...]) -> None:
    """In each segment and for each profile, attention is fused in every layer, the decoder's products compute in their precision,
    and one product stays float32: the head."""
    profiles = len(optimization_profiles(Bundle.open(bundle, f"tensorrt-{precision}")))
    for begin, end, summary in zip((0, *exits), exits, compiled(bundle, precision), strict=False):
        layers = (end - begin) * profiles
        assert sum(count for kind, count in summary.items() if "mha" in kind) == layers, summary
        assert summary["fp32 gemm"] == profiles, summary
        products = {kind: count for kind, count in summary.items() if kind.endswith(" gemm") and kind != "fp32 gemm"}
        assert sum(products.values()) == PRODUCTS * layers, summary
        if precision == "int4":
            # Weights are unpacked in the product or before it; then the product is half.
            unpacked = summary.get("int4 gemm", 0) + summary.get("int4 dequantize", 0)
            assert set(products) <= {"int4 gemm", "fp16 gemm"} and unpacked == PRODUCTS * layers, summary
        else:
            assert set(products) == {f"{precision} gemm"}, summary


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_tiny_model(tensorrt_exported: Path, tmp_path: Path, precision: str) -> None:
    check(Path(shutil.copytree(tensorrt_exported, tmp_path / "bundle")), precision, (1, 2, 4))


@pytest.mark.slow
@pytest.mark.parametrize(("exits", "shape"), [((2, 4, 6), DEMO), ((5,), SMOLLM2)], ids=["demo", "smollm2"])
def test_models_of_real_shapes(catalog_folder: Path, tmp_path: Path, exits: tuple[int, ...], shape: dict[str, Any]) -> None:
    """Random weights."""
    checkpoint = tiny_checkpoint(tmp_path / "checkpoint", exits, catalog=Catalog.open(catalog_folder), **shape)
    options = ExportOptions(target="tensorrt", precisions=PRECISIONS, golden_slates=2, quality_slates=10, accept_loss=True)
    export_bundle(checkpoint, catalog_folder, tmp_path / "bundle", options)
    for precision in PRECISIONS:
        check(tmp_path / "bundle", precision, exits)


def request(graph: Path, plan: Path, profiles: list[dict[str, tuple[int, int, int]]], capability: str) -> dict[str, Any]:
    """What `rexit compile` asks of a builder."""
    paths = {"graph": str(graph), "plan": str(plan), "timing_cache": None}
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
