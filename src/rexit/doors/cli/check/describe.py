"""What a bundle, a catalog or a policy holds, as plain JSON values: `rexit inspect --json`."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rexit.errors import BundleError
from rexit.format.bundle.bundle import Bundle
from rexit.format.bundle.catalog import Catalog
from rexit.format.bundle.files import read_json, to_json
from rexit.format.bundle.manifest import TOKENIZER, WORD_PIECES
from rexit.format.bundle.policy import Policy
from rexit.format.bundle.variant import Engine, Variant, engine_folders
from rexit.format.request import MAX_CANDIDATES

ORIGIN = ("ids", "columns", "label", "order", "split", "labels", "embedding", "lightgcn", "retrieval", "zero")
"""Keys of catalog.json that say how `rexit index` made it."""


def describe(path: Path) -> dict[str, Any]:
    """Describes a bundle, a catalog or a policy. `kind` in the result says which.

    Args:
        path: A bundle's folder, a catalog's folder, or a policy.json.

    Raises:
        BundleError: It is none of these, or damaged.
    """
    if (path / "manifest.json").is_file():
        return _bundle(path)
    if (path / "catalog.json").is_file():
        return {"kind": "catalog", "path": str(path), "catalog": _catalog(Catalog.open(path))}
    if path.is_file() and path.suffix == ".json":
        return _policy_file(path)
    raise BundleError(f"{path}: not a bundle (manifest.json), a catalog (catalog.json) or a policy file")


def _bundle(path: Path) -> dict[str, Any]:
    first = Bundle.open(path)
    model = {**to_json(first.manifest.model), "exits": list(first.manifest.exits)}
    variants = [_variant(Bundle.open(path, name)) for name in first.manifest.variants]
    requests: dict[str, Any]
    if (tokens := first.manifest.tokens) is None:
        requests = {"catalog": _catalog(first.catalog)}
    else:
        requests = {
            "tokens": {
                **to_json(tokens),
                "tokenizer": TOKENIZER in first.manifest.files,
                "texts": WORD_PIECES in first.manifest.files,
            }
        }
    reranker = first.manifest.reranker
    if reranker is not None:
        requests["reranker"] = to_json(reranker)
    limits = {"max_candidates": MAX_CANDIDATES}
    return {"kind": "bundle", "path": str(path), "model": model, **limits, "variants": variants, **requests}


def _variant(bundle: Bundle) -> dict[str, Any]:
    variant, policy = bundle.variant, bundle.policy()
    segments = [
        {
            "graph": segment.graph,
            "depth": f"{segment.layers[0]}-{segment.layers[1]}",
            "bytes": sum(variant.files[name].bytes for name in {segment.graph, segment.weights} if name in variant.files),
        }
        for segment in variant.segments
    ]
    keys = ("name", "target", "precision", "backend", "opset", "max_tokens", "max_positions")
    return {
        **{key: getattr(variant, key) for key in keys},
        "sha256": bundle.variant_sha256,
        "bytes": sum(entry.bytes for entry in variant.files.values()),
        "segments": segments,
        "parity": dict(variant.parity),
        "quality": None if variant.quality is None else dict(variant.quality),
        "policy": None if policy is None else _policy(policy, bundle.exits),
        "engines": [_engine(folder, variant) for folder in engine_folders(bundle.folder)],
    }


def _engine(folder: Path, variant: Variant) -> dict[str, Any]:
    """`state` is current, stale or unreadable; `reason` says why."""
    try:
        engine = Engine.read(folder)
    except BundleError as exc:
        return {"key": folder.name, "builder": None, "gpu": None, "bytes": 0, "state": "unreadable", "reason": str(exc)}
    description = {"key": engine.key, "builder": engine.builder.name, "gpu": engine.gpu.name, "bytes": engine.bytes}
    try:
        engine.check(folder, variant)
    except BundleError as exc:
        return {**description, "state": "stale", "reason": str(exc)}
    return {**description, "state": "current", "reason": None}


def _policy(policy: Policy, layers: tuple[int, ...] | None = None) -> dict[str, Any]:
    """layers: depths of the exits; None: unknown."""
    exits: list[dict[str, Any]] = []
    for k, rule in enumerate(policy.exits):
        upper, lower = (None if math.isinf(threshold) else threshold for threshold in (rule.upper, rule.lower))
        depth = None if layers is None else layers[k]
        entry = {"exit": k, "layers": depth, "a": rule.a, "b": rule.b, "earlier": list(rule.earlier)}
        exits.append({**entry, "upper": upper, "lower": lower, "keep": rule.keep or None})
    return {
        "patience": policy.patience,
        "quorum": policy.quorum,
        "prior_shift": policy.prior_shift,
        "top_k": None if policy.top_k is None else asdict(policy.top_k),
        "made_on": policy.made_on,
        "certificate": policy.certificate,
        "variant_sha256": policy.variant_sha256,
        "exits": exits,
    }


def _policy_file(path: Path) -> dict[str, Any]:
    value = read_json(path)
    exits, digest = value.get("exits"), value.get("variant_sha256")
    if not isinstance(exits, list) or not isinstance(digest, str):
        raise BundleError(f"{path}: not a policy: expected `exits` and `variant_sha256`")
    return {"kind": "policy", "path": str(path), "policy": _policy(Policy.read(path, len(exits), digest))}


def _catalog(catalog: Catalog) -> dict[str, Any]:
    info = catalog.info
    return {
        "sha256": catalog.sha256,
        **{key: info.get(key) for key in ("counts", *ORIGIN, "tokenizer")},
        "labels": catalog.labels,
        "splits": {name: split.get("rows") for name, split in info["splits"].items()},
        "files": {name: entry.bytes for name, entry in catalog.files.items()},
        "prompt": info["prompt"],
    }
