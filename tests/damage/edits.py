"""How the cases edit a bundle. Sizes and digests are updated afterwards, so that checks reach the damage itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
from safetensors.numpy import load_file, save_file

from builders.bundles.bundle_files import refresh, write_json

MANIFEST, CATALOG, VARIANT = "manifest.json", "catalog/catalog.json", "variants/cpu-fp32/variant.json"
USERS, ITEMS, PIECES = (f"catalog/{name}.safetensors" for name in ("users", "items", "pieces"))
SEGMENT = "variants/cpu-fp32/segment-1.onnx"


def edit_json(folder: Path, name: str, *keys: str | int, to: Any, sealed: bool = True) -> None:
    """Replaces the value at a path of keys; `sealed`: sizes and digests are made to fit."""
    value = json.loads((folder / name).read_text())
    at = value
    for key in keys[:-1]:
        at = at[key]
    at[keys[-1]] = to
    write_json(folder / name, value)
    if sealed:
        refresh(folder)


def edit_table(folder: Path, name: str, tensor: str, edit: Callable[[Any], Any]) -> None:
    tables = load_file(folder / name)
    changed = edit(tables[tensor].copy())
    if changed is None:
        del tables[tensor]
    else:
        tables[tensor] = changed
    save_file(tables, folder / name)
    refresh(folder)


def put(index: int | slice | tuple[int, ...], value: Any) -> Callable[[Any], Any]:
    def edit(array: Any) -> Any:
        array[index] = value
        return array

    return edit


def edit_graph(folder: Path, edit: Callable[[Any], None]) -> None:
    model = onnx.load(folder / SEGMENT, load_external_data=False)
    edit(model.graph)
    onnx.save(model, folder / SEGMENT)
    refresh(folder)
