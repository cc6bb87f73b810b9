"""`rexit compile` with TensorRT-RTX, which really compiles the tests' bundle. Compiled, not run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import msgspec
import pytest

from builders.bundles.bundle import MAX_TOKENS
from builders.bundles.bundle_files import refresh, write_json
from builders.bundles.catalog import PROGRAM
from builders.bundles.engines import engines_of
from builders.bundles.variants import TENSORRT
from rexit.exporter.engine.compile import CompileReport, VariantBuild, compile_engines, optimization_profiles
from rexit.format.bundle import Bundle, Engine, FileEntry, OptimizationProfile
from rexit.format.bundle.variant import Limits

MAX_PREFIX = PROGRAM["max_prefix_tokens"]


def build(bundle: Path, **options: object) -> VariantBuild:
    (built,) = compile_engines(bundle, **{"compute_capability": "8.6", **options}).variants  # type: ignore[arg-type]
    return built


def test_engines_are_what_engine_json_says(compiled_bundle: tuple[Path, CompileReport]) -> None:
    path, report = compiled_bundle
    bundle = Bundle.open(path, TENSORRT)
    (built,) = report.variants
    engine = Engine.read(Path(built.folder))
    assert (report.builder, report.gpu, report.compute_capability) == ("tensorrt_rtx", None, "8.6")
    assert built.key == engine.key == f"sm86-rtx{report.version}" and not built.up_to_date
    assert engine.stale(bundle.variant) is None and engine.edited(Path(built.folder)) == []
    files = {p.name: FileEntry.of(p).to_json() for p in Path(built.folder).glob("*.plan")}
    assert sorted(files) == ["segment-0.plan", "segment-1.plan", "segment-2.plan"]
    value = json.loads((Path(built.folder) / "engine.json").read_text())
    assert (value["files"], value["variant"]) == (files, TENSORRT)
    assert value["gpu"] == {"name": None, "compute_capability": "8.6"}
    assert sorted(p.name for p in Path(built.folder).iterdir()) == ["engine.json", *sorted(engine.files)]
    for k, (segment, steps) in enumerate(zip(engine.segments, built.segments, strict=True)):
        assert segment.profiles == optimization_profiles(bundle)
        assert segment.layers == steps.engine_layers > 10 and steps.seconds > 0
        assert segment.summary == steps.summary
        assert steps.bytes == engine.files[f"segment-{k}.plan"].bytes > 1000
        assert steps.peak_bytes is not None and 50e6 < steps.peak_bytes < 2e9
    # queries, keys and values become one product; attention, in float32, two; then out, up, down; the head: in each profile
    assert [s.summary for s in engine.segments] == [{"fp32 gemm": 2 * n} for n in (7, 7, 13)]


def test_profiles(exported_variants: Path) -> None:
    """The limits and the catalog give the most, golden slates what is usual. No size is ever 0."""
    bundle = Bundle.open(exported_variants, TENSORRT)
    empty, behind = optimization_profiles(bundle)
    most = max(MAX_TOKENS, MAX_PREFIX)
    prefixes = sorted(len(slate.prefix) for slate in bundle.golden().slates)
    assert empty == OptimizationProfile((1, prefixes[len(prefixes) // 2], most), (1, 1, 1), (1, 1, MAX_TOKENS))
    assert behind.prefix == (1, prefixes[len(prefixes) // 2], MAX_PREFIX)
    assert behind.tokens[::2] == (1, most) and behind.rows[::2] == (1, MAX_TOKENS)
    lengths = sorted(len(tokens) for slate in bundle.golden().slates for tokens in slate.candidates)
    assert behind.rows[1] == MAX_TOKENS // lengths[len(lengths) // 2] >= 1
    assert behind.tokens[1] == behind.rows[1] * lengths[len(lengths) // 2] <= MAX_TOKENS
    roomy = dataclasses.replace(
        bundle, variant=msgspec.structs.replace(bundle.variant, limits=Limits(4096, bundle.variant.max_positions))
    )
    assert optimization_profiles(roomy)[1].rows == (1, 20, 4096)


class BuiltError(Exception):
    """Instead of a compiler that runs."""


@pytest.mark.parametrize("damage", ["weights", "limits", "plan", "engine.json"])
def test_built_anew_when_it_is_not_what_it_was(compiled: Path, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    part = compiled / "variants" / TENSORRT
    (folder,) = (path for path in engines_of(compiled).iterdir())
    if damage == "weights":
        data = part / "segment-1.onnx.data"
        data.write_bytes(data.read_bytes()[:-4] + b"\0\0\0\1")
    elif damage == "limits":
        variant = json.loads((part / "variant.json").read_text())
        variant["limits"]["max_tokens"] = MAX_TOKENS + 1
        write_json(part / "variant.json", variant)
    elif damage == "plan":
        plan = folder / "segment-0.plan"
        plan.write_bytes(b"X" + plan.read_bytes()[1:])
    else:
        (folder / "engine.json").write_text("{")
    refresh(compiled, TENSORRT)

    def built(*_: object) -> None:
        raise BuiltError

    monkeypatch.setattr("rexit.exporter.engine.compile._Compilation._segment", built)
    with pytest.raises(BuiltError):
        build(compiled)
