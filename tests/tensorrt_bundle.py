"""The served tiny bundle with a second variant for TensorRT: the same graphs, in standard ops, which its compilers take."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import tiny_bundle
from served_bundle import write_served_bundle

VARIANT = "tensorrt-fp32"


def add_tensorrt_variant(folder: Path, name: str = VARIANT) -> None:
    part = folder / "variants" / name
    shutil.copytree(folder / "variants" / "cpu-fp32", part)
    variant = json.loads((part / "variant.json").read_text())
    tiny_bundle.write_json(part / "variant.json", {**variant, "name": name, "target": "tensorrt", "backend": "tensorrt"})
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["variants"].append(name)
    manifest["files"][f"variants/{name}/variant.json"] = {}
    tiny_bundle.write_json(folder / "manifest.json", manifest)
    tiny_bundle.refresh(folder, name)


def write_tensorrt_bundle(place: Path) -> Path:
    """Variants cpu-fp32 and tensorrt-fp32, golden samples in both."""
    folder, _ = write_served_bundle(place)
    add_tensorrt_variant(folder)
    return folder
