"""The files of a bundle, written and edited as someone would who does it on purpose: sizes and digests can be made to fit."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from rexit.format.bundle.files import SCHEMA


def entry(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def contents(folder: Path) -> dict[str, bytes]:
    """Everything under a folder, hidden files too: what must not have changed."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def pad_vocabulary(folder: Path) -> None:
    """The model has more token ids than the catalog's tokenizer, as embeddings padded to a multiple have."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["model"]["vocab_size"] *= 2
    write_json(folder / "manifest.json", manifest)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8")


def edit_json(path: Path, **changes: Any) -> None:
    """Changes keys of an object in a file; None drops one."""
    value = json.loads(path.read_text()) | changes
    write_json(path, {key: entry for key, entry in value.items() if entry is not None})


def write_policy(folder: Path, exits: list[dict[str, Any]], patience: int = 1, variant: str = "cpu-fp32", **others: Any) -> None:
    """A policy bound to the bundle's variant, as calibration writes it. others: its optional keys."""
    manifest = json.loads((folder / "manifest.json").read_text())
    digest = manifest["files"][f"variants/{variant}/variant.json"]["sha256"]
    value = {"schema": SCHEMA, "variant_sha256": digest, "patience": patience, "exits": exits, **others}
    write_json(folder / "variants" / variant / "policy.json", value)


def refresh(folder: Path, variant: str = "cpu-fp32") -> None:
    """Records sizes and digests anew, from the leaves up."""
    catalog, part = folder / "catalog", folder / "variants" / variant
    has_catalog = catalog.is_dir()
    lists = [(catalog / "catalog.json", catalog)] if has_catalog else []
    for path, below in (*lists, (part / "variant.json", part)):
        value = json.loads(path.read_text())
        value["files"] = {name: entry(below / name) for name in value["files"]}
        if path.name == "variant.json" and has_catalog:
            value["catalog_sha256"] = entry(catalog / "catalog.json")["sha256"]
        write_json(path, value)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"] = {name: entry(folder / name) for name in manifest["files"]}
    write_json(folder / "manifest.json", manifest)


def golden_arrays(folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of the golden samples."""
    return load_file(folder / "variants" / "cpu-fp32" / "golden.safetensors")


def edit_golden(folder: Path, **arrays: Any) -> None:
    """Replaces arrays of the golden samples; None drops one. The policy goes: it belongs to the variant as it was."""
    table = {name: array for name, array in (golden_arrays(folder) | arrays).items() if array is not None}
    save_file(table, folder / "variants" / "cpu-fp32" / "golden.safetensors")
    (folder / "variants" / "cpu-fp32" / "policy.json").unlink(missing_ok=True)
    refresh(folder)


def add_tokenizer(folder: Path, tokenizer: str) -> None:
    """Puts a tokenizer.json into the bundle."""
    (folder / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
    files = json.loads((folder / "manifest.json").read_text())["files"]
    edit_json(folder / "manifest.json", files=files | {"tokenizer.json": {}})
    refresh(folder)


def drop_catalog(folder: Path) -> None:
    """Makes the bundle one whose requests are token ids."""
    shutil.rmtree(folder / "catalog")
    files = json.loads((folder / "manifest.json").read_text())["files"]
    edit_json(
        folder / "manifest.json",
        files={name: entry for name, entry in files.items() if name.startswith("variants/")},
        roles=None,
        tokens={"labels": {"no": 5, "yes": 9}, "max_prefix_tokens": 20, "max_candidate_tokens": 6},
    )
    for path in (folder / "variants").glob("*/variant.json"):
        edit_json(path, catalog_sha256=None)
    refresh(folder)
