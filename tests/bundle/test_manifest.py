"""Manifests and variants: what is written comes back, and a bundle that does not hold together is refused in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from builders.bundles.held_out import write_ranked
from rexit import __version__
from rexit.bundle import Bundle, FileEntry, Manifest, Variant
from rexit.errors import BundleError, InputError

VARIANT = "variants/cpu-fp32/variant.json"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ranked(tmp_path_factory.mktemp("bundle")).bundle


@pytest.fixture
def bundle(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "bundle"))


def _edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def _edit_variant(bundle: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """As an honest writer would: with the new digest in the manifest."""
    _edit(bundle / VARIANT, change)
    entry = FileEntry.of(bundle / VARIANT).to_json()
    _edit(bundle / "manifest.json", lambda value: value["files"].update({VARIANT: entry}))


def test_written_comes_back(bundle: Path, tmp_path: Path) -> None:
    opened = Bundle.open(bundle)
    for value, name in ((opened.manifest, "manifest.json"), (opened.variant, "variant.json")):
        value.write(tmp_path)
        there = json.loads(((bundle if name == "manifest.json" else opened.folder) / name).read_text())
        assert json.loads((tmp_path / name).read_text()) == there | {"producer": f"rexit {__version__}"}
    assert Manifest.read(tmp_path) == opened.manifest and Variant.read(tmp_path) == opened.variant
    assert opened.variant_sha256 == FileEntry.of(bundle / VARIANT).sha256


def test_unknown_keys_are_ignored(bundle: Path) -> None:
    plain = Bundle.open(bundle)
    _edit_variant(bundle, lambda value: value.update(colour="red"))
    _edit(bundle / "manifest.json", lambda value: value.update(colour="red"))
    opened = Bundle.open(bundle)
    assert opened.variant == plain.variant and opened.manifest.exits == plain.manifest.exits


def test_no_folder_and_no_such_variant(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such bundle folder"):
        Bundle.open(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no variant 'tensorrt-fp16', there are: cpu-fp32"):
        Bundle.open(bundle, "tensorrt-fp16")


MANIFEST_DAMAGE: list[tuple[str, Callable[[dict[str, Any]], Any], str]] = [
    ("no model", lambda v: v.pop("model"), "manifest.json: `model` is missing"),
    ("half a model", lambda v: v["model"].pop("kv_heads"), "model: `kv_heads` is missing"),
    ("exits", lambda v: v.update(exits="2,4"), "exits: is '2,4', expected an array"),
    ("no variants", lambda v: v.update(variants=[]), "lists no variants"),
    ("unlisted variant", lambda v: v["files"].pop(VARIANT), "does not list variants/cpu-fp32/variant.json"),
    ("variant outside", lambda v: v.update(variants=["../cpu-fp32"]), "does not list|not a plain"),
    ("file outside", lambda v: v["files"].update({"../x": {"bytes": 1, "sha256": "0"}}), "not a plain relative path"),
    ("files", lambda v: v.update(files=[]), r"files: is \[\], expected an object"),
    ("schema", lambda v: v.update(schema=2), "schema 2"),
    ("requires", lambda v: v.update(requires=["x"]), "requires"),
]


@pytest.mark.parametrize(("change", "message"), [d[1:] for d in MANIFEST_DAMAGE], ids=[d[0] for d in MANIFEST_DAMAGE])
def test_damaged_manifest(bundle: Path, change: Callable[[dict[str, Any]], Any], message: str) -> None:
    _edit(bundle / "manifest.json", change)
    with pytest.raises(BundleError, match=message) as caught:
        Bundle.open(bundle)
    assert "\n" not in str(caught.value)


VARIANT_DAMAGE: list[tuple[str, Callable[[dict[str, Any]], Any], str]] = [
    ("no segments", lambda v: v.pop("segments"), "`segments` is missing"),
    ("half a segment", lambda v: v["segments"][0].pop("layers"), r"segments\[0\]: `layers` is missing"),
    ("layers", lambda v: v["segments"][0].update(layers=[0]), r"segments\[0\] layers: is \[0\], expected an array of length 2"),
    ("no limits", lambda v: v.pop("limits"), "`limits` is missing"),
    ("limits", lambda v: v["limits"].update(max_tokens="many"), "limits max_tokens: is 'many', expected an integer"),
    ("another catalog", lambda v: v.update(catalog_sha256="0" * 64), "made for another catalog"),
    ("requires", lambda v: v.update(requires=["x"]), "requires"),
]


@pytest.mark.parametrize(("change", "message"), [d[1:] for d in VARIANT_DAMAGE], ids=[d[0] for d in VARIANT_DAMAGE])
def test_damaged_variant(bundle: Path, change: Callable[[dict[str, Any]], Any], message: str) -> None:
    _edit_variant(bundle, change)
    with pytest.raises(BundleError, match=message) as caught:
        Bundle.open(bundle)
    assert "\n" not in str(caught.value)


def test_edited_variant_is_seen_by_size_or_by_hash(bundle: Path) -> None:
    _edit(bundle / VARIANT, lambda value: value["limits"].update(max_tokens=513))
    text = (bundle / VARIANT).read_text()
    with pytest.raises(BundleError, match=r"variant.json: \d+ bytes, expected"):
        Bundle.open(bundle)
    _edit_variant(bundle, lambda _: None)
    (bundle / VARIANT).write_text(text.replace('"max_tokens": 513', '"max_tokens": 514'))
    assert [line for line in Bundle.open(bundle).edited() if "variant.json" in line]


@pytest.mark.parametrize("name", ["segment-1.onnx", "segment-1.onnx.data", "golden.safetensors"])
def test_truncated_and_missing_files_of_a_variant(bundle: Path, name: str) -> None:
    path = bundle / "variants" / "cpu-fp32" / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BundleError, match=rf"{name}: \d+ bytes, expected \d+ \(truncated or edited\)"):
        Bundle.open(bundle)
    path.unlink()
    with pytest.raises(BundleError, match=f"{name}: missing"):
        Bundle.open(bundle)


def test_edited_weights_are_seen_by_hash(bundle: Path) -> None:
    path = bundle / "variants" / "cpu-fp32" / "segment-1.onnx.data"
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    assert [line.split(":")[0].rsplit("/", 1)[1] for line in Bundle.open(bundle).edited()] == ["segment-1.onnx.data"]


def test_truncated_catalog_table(bundle: Path) -> None:
    path = bundle / "catalog" / "users.safetensors"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(BundleError, match="40 bytes, expected"):
        Bundle.open(bundle)


def test_linked_graph(bundle: Path, tmp_path: Path) -> None:
    path = bundle / "variants" / "cpu-fp32" / "segment-0.onnx"
    path.rename(tmp_path / "elsewhere.onnx")
    path.symlink_to(tmp_path / "elsewhere.onnx")
    with pytest.raises(BundleError, match="is a link"):
        Bundle.open(bundle)


def test_golden_samples_come_back(bundle: Path, tmp_path: Path) -> None:
    golden = Bundle.open(bundle).golden()
    golden.write(tmp_path / "golden.safetensors")
    assert (tmp_path / "golden.safetensors").read_bytes() == (bundle / "variants/cpu-fp32/golden.safetensors").read_bytes()
