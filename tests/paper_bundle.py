"""A catalog and a bundle that are right in every file but hold no model: for all that happens before a segment runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
from safetensors.numpy import save_file

from rexit.bundle import FileEntry, Manifest, Model, Segment, Variant

USERS, ITEMS = 30, 40
EXITS = (2, 4, 6)


def _entry(path: Path) -> dict[str, object]:
    return FileEntry.of(path).to_json()


def write_catalog(folder: Path, seed: int = 0, per_user: int = 30) -> Path:
    """Users 100..129 and items 1000..1039; each user's interactions at times 1, 2, 3 …, liked more often for items of the
    user's parity."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    save_file({"ids": np.arange(100, 100 + USERS)}, folder / "users.safetensors")
    save_file({"ids": np.arange(1000, 1000 + ITEMS)}, folder / "items.safetensors")
    save_file({"offsets": np.array([0, 1]), "tokens": np.array([7], np.int32)}, folder / "pieces.safetensors")
    rows = []
    for user in range(100, 100 + USERS):
        items = 1000 + random.permutation(ITEMS)[:per_user]
        rows += [(user, int(i), t + 1, bool(random.random() < (0.8 if (user + i) % 2 else 0.2))) for t, i in enumerate(items)]
    frame = pl.DataFrame(rows, schema=["user", "item", "time", "liked"], orient="row")
    (folder / "splits").mkdir()
    cuts = {"train": (0, per_user // 3), "validation": (per_user // 3, 2 * per_user // 3), "test": (2 * per_user // 3, per_user)}
    splits = {}
    for name, (low, high) in cuts.items():
        path = folder / "splits" / f"{name}.parquet"
        part = frame.filter((pl.col("time") > low) & (pl.col("time") <= high))
        part.write_parquet(path)
        splits[name] = {"path": f"splits/{name}.parquet", "rows": part.height, **_entry(path)}
    info = {
        "schema": 1,
        "requires": [],
        "producer": "tests",
        "ids": {"user": "int64", "item": "int64"},
        "counts": {"users": USERS, "items": ITEMS, "interactions": len(rows), "pieces": 1},
        "label": {"column": "rating", "positive_at": 4.0},
        "tokenizer": {"vocab_size": 10, "sha256": "0"},
        "labels": {"no": 1, "yes": 2},
        "embedding": {"dim": 4, "layers": 1},
        "prompt": {
            "template": "like {item.title}?",
            "prefix": [{"op": "piece", "piece": 0}],
            "candidate": [{"op": "item_field", "field": "title"}],
            "max_prefix_tokens": 1,
            "max_candidate_tokens": 1,
        },
        "retrieval": {},
        "splits": splits,
        "files": {name: _entry(folder / name) for name in ("users.safetensors", "items.safetensors", "pieces.safetensors")},
    }
    (folder / "catalog.json").write_text(json.dumps(info))
    return folder


def write_bundle(folder: Path, catalog: Path, exits: tuple[int, ...] = EXITS) -> Path:
    """A bundle of that catalog with one variant, `cpu-fp32`, whose graphs are not graphs."""
    (folder / "catalog").mkdir(parents=True)
    names = ("catalog.json", "users.safetensors", "items.safetensors", "pieces.safetensors")
    for name in names:
        (folder / "catalog" / name).write_bytes((catalog / name).read_bytes())
    variant = folder / "variants" / "cpu-fp32"
    variant.mkdir(parents=True)
    segments = []
    for k, end in enumerate(exits):
        (variant / f"segment-{k}.onnx").write_bytes(b"graph")
        (variant / f"segment-{k}.onnx.data").write_bytes(b"weights" * 100)
        begin = exits[k - 1] if k else 0
        segments.append(Segment(f"segment-{k}.onnx", f"segment-{k}.onnx.data", (begin, end), "float32", "float32", {}, {}))
    save_file(golden(len(exits)), variant / "golden.safetensors")
    files = {p.name: FileEntry.of(p) for p in variant.iterdir()}
    digest = FileEntry.of(folder / "catalog" / "catalog.json").sha256
    parity = {"tolerance": 1e-4, "samples": 2, "exits": []}
    Variant("cpu-fp32", "cpu", "fp32", "onnxruntime", 23, digest, "c", 512, 1024, tuple(segments), parity, files).write(variant)
    listed = {f"catalog/{name}": FileEntry.of(folder / "catalog" / name) for name in names}
    listed["variants/cpu-fp32/variant.json"] = FileEntry.of(variant / "variant.json")
    Manifest(Model("llama", exits[-1], 8, 1, 8, 10, 1024, "own", "c"), exits, ("cpu-fp32",), listed).write(folder)
    return folder


def golden(exits: int) -> dict[str, np.ndarray]:
    """Two golden slates of two and one candidates."""
    return {
        "user": np.array([0, 3], np.int32),
        "as_of": np.array([5, 9]),
        "slate_offsets": np.array([0, 2, 3]),
        "item": np.array([4, 5, 6], np.int32),
        "prefix_offsets": np.array([0, 1, 3]),
        "prefix_tokens": np.array([7, 8, 9], np.int32),
        "candidate_offsets": np.array([0, 1, 3, 4]),
        "candidate_tokens": np.array([1, 2, 3, 4], np.int32),
        "log_odds": np.arange(3 * exits, dtype=np.float32).reshape(3, exits),
    }
