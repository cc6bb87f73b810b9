"""How TensorRT is called, and what is made of what it gives. It and the GPU are doubles: nothing is compiled here."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from builders.bundles.engines import engines_of
from builders.bundles.variants import TENSORRT
from doubles.compiler import Doubles
from rexit.exporter.engine.compile import compile_engines, optimization_profiles
from rexit.format.bundle import Bundle, Engine


@pytest.fixture
def doubles(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Doubles:
    (tmp_path / "doubles").mkdir()
    doubles = Doubles(tmp_path / "doubles", monkeypatch)
    doubles.add_gpu()
    doubles.expect(bundle / "variants" / TENSORRT)
    return doubles


def test_calls_and_engine(bundle: Path, doubles: Doubles) -> None:
    report = compile_engines(bundle)
    (built,) = report.variants
    assert (report.builder, report.version, report.gpu, built.key) == ("tensorrt", "10.3.0", "Orin", "sm87-trt10.3.0")
    assert doubles.calls("create_network") == [[2]] * 3  # strongly typed
    assert doubles.calls("parse_from_file") == [[f"segment-{k}.onnx"] for k in range(3)]
    assert doubles.calls("build_serialized_network") == [[2]] * 3  # detailed
    for (shapes,), profile in zip(  # of the first segment
        doubles.calls("add_optimization_profile")[:2], optimization_profiles(Bundle.open(bundle, TENSORRT)), strict=True
    ):
        assert shapes == {
            **{name: [[size] for size in profile.tokens] for name in ("ids", "place", "owner")},
            "read": [[size] for size in profile.rows],
            **{name: [[2, size, 8] for size in profile.prefix] for name in ("pk0", "pv0")},
        }
    assert len(doubles.calls("add_optimization_profile")) == 6
    engine = Engine.read(Path(built.folder))
    assert (engine.gpu.name, engine.gpu.compute_capability) == ("Orin", "8.7")
    assert [(s.layers, s.summary) for s in engine.segments] == [(3, {"fp16 gemm": 1, "gemm_mha_v2": 1})] * 3
    assert engine.command == f"rexit compile BUNDLE --variant {TENSORRT}"
    for k, segment in enumerate(engine.segments):
        assert segment.plan == f"segment-{k}.plan"
        assert (Path(built.folder) / segment.plan).read_bytes() == b"plan"
    assert compile_engines(bundle).variants[0].up_to_date


def test_timing_cache_goes_from_segment_to_segment_and_build_to_build(bundle: Path, doubles: Doubles) -> None:
    compile_engines(bundle)
    assert doubles.calls("set_timing_cache") == [["", False], ["+", False], ["++", False]]
    assert not compile_engines(bundle, force=True).variants[0].warnings
    assert doubles.calls("set_timing_cache")[3:] == [["+++", False], ["++++", False], ["+++++", False]]
    names = sorted(path.name for path in engines_of(bundle).iterdir())
    assert names == ["sm87-trt10.3.0", "timing-sm87-trt10.3.0.cache"]


@pytest.mark.parametrize(
    ("content", "reason", "used"),
    [
        (b"short", "damaged timing cache, ignored", []),
        (b"long enough to hold a digest, which it does not", "damaged timing cache, ignored", []),
        (hashlib.sha256(b"foreign").digest() + b"foreign", "timing cache of another TensorRT or GPU, ignored", ["foreign"]),
    ],
)
def test_a_timing_cache_that_is_none_is_ignored(
    bundle: Path, doubles: Doubles, content: bytes, reason: str, used: list[str]
) -> None:
    engines_of(bundle).mkdir()
    (engines_of(bundle) / "timing-sm87-trt10.3.0.cache").write_bytes(content)
    (built,) = compile_engines(bundle).variants
    assert [line.split("/")[-1] for line in built.warnings] == [f"timing-sm87-trt10.3.0.cache: {reason}"]
    assert doubles.calls("set_timing_cache") == [[text, False] for text in (*used, "", "+", "++")]


def test_another_gpu_of_the_same_capability(bundle: Path, doubles: Doubles) -> None:
    """A plan for one Orin is not one for another Orin."""
    (built,) = compile_engines(bundle).variants
    path = Path(built.folder) / "engine.json"
    path.write_text(path.read_text().replace('"Orin"', '"Orin Nano"'))
    assert not compile_engines(bundle).variants[0].up_to_date
