"""The tests' bundle: a few kilobytes, random weights, everything in it that a real one has.

`write_bundle(folder)` needs only numpy, onnx and safetensors. What a test wants otherwise it says in `BundleOptions`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray
from safetensors.numpy import save_file

from builders.bundles.bundle_files import refresh, write_json
from builders.bundles.catalog import CatalogContents, make_catalog
from builders.bundles.model import (
    EXITS,
    HEAD_DIM,
    HEADS,
    HIDDEN,
    LAYERS,
    POSITIONS,
    VOCABULARY,
    make_vectors,
    make_weights,
    segment_graph,
    segment_names,
)
from builders.bundles.variants import add_variant
from builders.bundles.zero import tree_graph
from rexit.format.bundle.files import SCHEMA
from rexit.format.roles import RULE

MAX_TOKENS = 24


@dataclass(frozen=True)
class BundleOptions:
    """What a test wants otherwise.

    catalog: what it holds; where its program has vectors, so has the bundle. splits: of its catalog.json, whose files lie in
    a catalog's own folder and not in a bundle. exits: depths, the last of them the model's; exit zero comes before them if
    the catalog's program has numbers. max_tokens: the limit of cpu-
    fp32. golden: tensors of golden.safetensors, for every variant. variants: those beside cpu-fp32, of
    `builders.bundles.variants.KINDS`.
    """

    catalog: CatalogContents = field(default_factory=make_catalog)
    splits: dict[str, Any] = field(default_factory=dict)
    exits: tuple[int, ...] = EXITS
    max_tokens: int = MAX_TOKENS
    golden: dict[str, NDArray[Any]] | None = None
    variants: tuple[str, ...] = ()


def write_bundle(folder: Path, options: BundleOptions | None = None) -> Path:
    """Writes the bundle and returns its folder."""
    options = options or BundleOptions()
    write_catalog(folder / "catalog", options.catalog, options.splits)
    variant = folder / "variants" / "cpu-fp32"
    variant.mkdir(parents=True)
    tables = options.catalog.info["prompt"].get("vectors", [])
    segments, files = _write_segments(variant, options.exits, bool(tables))
    if options.golden is not None:
        save_file(options.golden, variant / "golden.safetensors")
        files.append("golden.safetensors")
    write_json(
        variant / "variant.json",
        {
            **{"schema": SCHEMA, "producer": "tiny", "name": "cpu-fp32"},
            **{"target": "cpu", "precision": "fp32"},
            **{"backend": "onnxruntime", "opset": 17, "catalog_sha256": "", "checkpoint_sha256": "f" * 64},
            "limits": {"max_tokens": options.max_tokens, "max_positions": POSITIONS},
            "segments": segments,
            # Log-odds of the golden samples reach 40.
            "parity": {"tolerance": 1e-4 if options.golden is None else 1e-3, "samples": 0, "exits": []},
            "files": {name: {} for name in files},
        },
    )
    model = {"family": "tiny", "head": "own", "layers": LAYERS, "hidden_size": HIDDEN, "kv_heads": HEADS, "head_dim": HEAD_DIM}
    numbers = options.catalog.info["prompt"].get("numbers", [])
    shared = [
        "catalog/catalog.json",
        *(f"catalog/{name}" for name in (*options.catalog.tables, *(["zero.onnx"] if numbers else []))),
    ]
    if tables:
        save_file(make_vectors(tables, options.catalog.info["counts"]["items"]), folder / "vectors.safetensors")
        shared.append("vectors.safetensors")
    write_json(
        folder / "manifest.json",
        {
            **{"schema": SCHEMA, "producer": "tiny"},
            **{"exits": [*([0] if numbers else []), *options.exits], "variants": ["cpu-fp32"], "roles": RULE},
            "model": {**model, "vocab_size": VOCABULARY, "max_positions": POSITIONS, "checkpoint_sha256": "f" * 64},
            "files": {name: {} for name in [*shared, "variants/cpu-fp32/variant.json"]},
        },
    )
    refresh(folder)
    for kind in options.variants:
        add_variant(folder, kind)
    return folder


def write_catalog(folder: Path, catalog: CatalogContents, splits: dict[str, Any]) -> None:
    """Tables and catalog.json; sizes and digests are left to `refresh`."""
    folder.mkdir(parents=True)
    for name, table in catalog.tables.items():
        save_file(table, folder / name)
    files = [*catalog.tables]
    if numbers := catalog.info["prompt"].get("numbers"):
        onnx.save(tree_graph(len(numbers)), folder / "zero.onnx")
        files.append("zero.onnx")
    write_json(folder / "catalog.json", {**catalog.info, "splits": splits, "files": {name: {} for name in files}})


def _write_segments(folder: Path, exits: tuple[int, ...], vectors: bool) -> tuple[list[dict[str, Any]], list[str]]:
    """What variant.json says of each segment, and the files' names."""
    weights, files = make_weights(), []
    for k in range(len(exits)):
        name = f"segment-{k}.onnx"
        graph = segment_graph(k, weights, exits, vectors)
        onnx.save(graph, folder / name, save_as_external_data=True, location=f"{name}.data", size_threshold=256)
        files += [name, f"{name}.data"]
    return [segment_names(k, exits, vectors) for k in range(len(exits))], files
