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
from rexit.errors import BundleError, InputError
from rexit.format.bundle import Bundle, FileEntry, Manifest, Variant

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


def test_edited_variant_is_seen_by_size_or_by_hash(bundle: Path) -> None:
    _edit(bundle / VARIANT, lambda value: value["limits"].update(max_tokens=513))
    text = (bundle / VARIANT).read_text()
    with pytest.raises(BundleError, match=r"variant.json: \d+ bytes, expected"):
        Bundle.open(bundle)
    _edit_variant(bundle, lambda _: None)
    (bundle / VARIANT).write_text(text.replace('"max_tokens": 513', '"max_tokens": 514'))
    assert [line for line in Bundle.open(bundle).edited() if "variant.json" in line]


def test_golden_samples_come_back(bundle: Path, tmp_path: Path) -> None:
    golden = Bundle.open(bundle).golden()
    golden.write(tmp_path / "golden.safetensors")
    assert (tmp_path / "golden.safetensors").read_bytes() == (bundle / "variants/cpu-fp32/golden.safetensors").read_bytes()
