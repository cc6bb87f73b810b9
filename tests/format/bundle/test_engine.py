"""`engine.json`: read as written, refused when damaged, stale when the variant is another one."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from builders.bundles.bundle import write_bundle
from rexit.errors import BundleError
from rexit.format.bundle import Bundle, Engine, EngineSegment, FileEntry, OptimizationProfile, Variant, engine_folders
from rexit.format.bundle.variant import Builder, Gpu, engine_key

PROFILES = (
    OptimizationProfile((1, 200, 512), (1, 1, 1), (1, 1, 512)),
    OptimizationProfile((1, 240, 512), (1, 200, 210), (1, 20, 512)),
)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle.open(write_bundle(tmp_path / "bundle"))


def write_engine(bundle: Bundle, version: str = "10.3.0") -> Path:
    """Engines of the variant that hold nothing."""
    variant = bundle.variant
    folder = bundle.folder / "engines" / engine_key("tensorrt", version, "8.7")
    folder.mkdir(parents=True)
    segments = []
    for k, s in enumerate(variant.segments):
        plan = f"segment-{k}.plan"
        (folder / plan).write_bytes(plan.encode())
        digests = (variant.files[s.graph].sha256, variant.files[s.weights].sha256)
        segments.append(EngineSegment(plan, *digests, PROFILES, 1.5, 61, {"gemm_mha_v2": 2, "int8 gemm": 8}))
    files = {path.name: FileEntry.of(path) for path in folder.iterdir()}
    Engine(variant.name, Builder("tensorrt", version), Gpu("Orin", "8.7"), tuple(segments), files).write(folder)
    return folder


def test_read_as_written(bundle: Bundle) -> None:
    folder = write_engine(bundle)
    engine = Engine.read(folder)
    assert engine.key == folder.name == "sm87-trt10.3.0"
    assert (engine.gpu, engine.builder) == (Gpu("Orin", "8.7"), Builder("tensorrt", "10.3.0"))
    assert engine.segments[1].profiles == PROFILES and engine.segments[1].summary == {"gemm_mha_v2": 2, "int8 gemm": 8}
    assert engine.edited(folder) == [] and engine.stale(bundle.variant) is None
    value = json.loads((folder / "engine.json").read_text())
    assert value["builder"] == {"name": "tensorrt", "version": "10.3.0"}
    assert value["gpu"] == {"name": "Orin", "compute_capability": "8.7"}
    assert value["segments"][0]["profiles"] == [
        {"tokens": [1, 200, 512], "prefix": [1, 1, 1], "rows": [1, 1, 512]},
        {"tokens": [1, 240, 512], "prefix": [1, 200, 210], "rows": [1, 20, 512]},
    ]


def test_folders_are_the_finished_engines(bundle: Bundle) -> None:
    assert engine_folders(bundle.folder) == []
    folders = [write_engine(bundle, version) for version in ("10.3.0", "10.13.1")]
    (folders[0].parent / ".sm87-trt10.9.0.tmp-x").mkdir()
    (folders[0].parent / "timing-sm87-trt10.3.0.cache").write_bytes(b"")
    assert engine_folders(bundle.folder) == sorted(folders)


def changed(variant: Variant, name: str) -> Variant:
    return msgspec.structs.replace(variant, files={**variant.files, name: FileEntry(1, "0" * 64)})


@pytest.mark.parametrize(
    ("name", "what"), [("segment-1.onnx", "segment 1's graph"), ("segment-2.onnx.data", "segment 2's weights")]
)
def test_stale(bundle: Bundle, name: str, what: str) -> None:
    folder = write_engine(bundle)
    with pytest.raises(BundleError) as caught:
        Engine.read(folder).check(folder, changed(bundle.variant, name))
    text = f"sm87-trt10.3.0: stale, it differs from the variant in {what}; rebuild it: rexit compile BUNDLE --variant cpu-fp32"
    assert str(caught.value).endswith(text)


def test_stale_when_copied_or_cut_otherwise(bundle: Bundle) -> None:
    engine = Engine.read(write_engine(bundle))
    assert "built from 'cpu-fp32'" in str(engine.stale(msgspec.structs.replace(bundle.variant, name="other")))
    fewer = msgspec.structs.replace(bundle.variant, segments=bundle.variant.segments[:2])
    assert engine.stale(fewer) == "the number of segments: it has 3, the variant 2"


def test_the_command_names_the_capability_it_was_built_for() -> None:
    engine = Engine("tensorrt-fp16", Builder("tensorrt_rtx", "1.7"), Gpu(None, "8.6"), (), {})
    assert engine.command == "rexit compile BUNDLE --variant tensorrt-fp16 --compute-capability 8.6"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"name": "tensorrt"', '"name": "tvm"', "builder: name: is 'tvm', expected tensorrt or tensorrt_rtx"),
        ('"version": "10.3.0"', '"version": "10.4.0"', "describes engine sm87-trt10.4.0, its folder is sm87-trt10.3.0"),
        ('"plan": "segment-0.plan"', '"plan": "../x.plan"', "does not list `../x.plan`"),
        ('"segment-0.plan": {', '"../segment-0.plan": {', "file path '../segment-0.plan' is not a plain relative path"),
        ('"layers": 61', '"layers": "many"', "segments[0] layers: is 'many', expected an integer"),
        ('"summary": {', '"summary": [], "x": {', "segments[0] summary: is [], expected an object"),
        ('"prefix": [', '"prefix": [7, ', "segments[0] profiles[0] prefix: is [7, 1, 1, 1], expected an array of length 3"),
    ],
)
def test_damaged(bundle: Bundle, old: str, new: str, message: str) -> None:
    folder = write_engine(bundle)
    path = folder / "engine.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(BundleError) as caught:
        Engine.read(folder)
    assert message in str(caught.value) and "\n" not in str(caught.value)
