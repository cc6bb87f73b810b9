"""The tiny bundle with what the exporter and `rexit index` would add: golden samples and held-out interactions that its model
can rank."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
from safetensors.numpy import save_file

from rexit import runtime
from tiny_bundle import (
    ITEM_IDS,
    ITEMS,
    USER_IDS,
    USERS,
    entry,
    make_weights,
    reference,
    refresh,
    string_id,
    write_bundle,
    write_json,
)

AS_OF = 100
"""Later than every interaction of the tiny catalog."""


def _ids(strings: bool) -> tuple[list[int | str], list[int | str]]:
    if strings:
        return [string_id("user", n) for n in range(USERS)], [string_id("item", n) for n in range(ITEMS)]
    return list(USER_IDS), list(ITEM_IDS)


def write_served_bundle(place: Path, strings: bool = False) -> tuple[Path, Path]:
    """Writes `place/bundle` and `place/catalog`, returns both.

    Labels are drawn from the log-odds of all exits, by the NumPy reference, so that every head knows something. The prompts of
    the golden samples are the runtime's own (its tests hold them against a second implementation); their log-odds are the
    reference's.
    """
    bundle = write_bundle(place / "bundle", strings=strings)
    users, items = _ids(strings)
    weights, random = make_weights(), np.random.default_rng(5)
    rows, slates = [], []
    with runtime.open(bundle) as session:
        for u, user in enumerate(users):
            prefix, candidates = session.prompt(user, items, as_of=AS_OF)
            log_odds = np.array([reference(weights, prefix, c) for c in candidates])
            slates.append((u, prefix, candidates, log_odds))
            evidence = (log_odds / log_odds.std(0)).sum(1)
            liked = random.random(ITEMS) < 1 / (1 + np.exp(-3 * (evidence - np.median(evidence))))
            order = random.permutation(ITEMS)
            rows += [(user, items[i], AS_OF + n, bool(liked[i])) for n, i in enumerate(order)]
    frame = pl.DataFrame(rows, schema=["user", "item", "time", "liked"], orient="row")
    catalog = place / "catalog"
    (catalog / "splits").mkdir(parents=True)
    splits = {}
    half = AS_OF + ITEMS // 2
    parts = {"train": pl.col("time") < 0, "validation": pl.col("time") < half, "test": pl.col("time") >= half}
    for name, which in parts.items():
        path = catalog / "splits" / f"{name}.parquet"
        part = frame.filter(which)
        part.write_parquet(path)
        splits[name] = {"path": f"splits/{name}.parquet", "rows": part.height, **entry(path)}
    info = json.loads((bundle / "catalog" / "catalog.json").read_text())
    write_json(bundle / "catalog" / "catalog.json", {**info, "splits": splits})
    _write_golden(bundle, slates[:4])
    refresh(bundle)
    for file in (bundle / "catalog").iterdir():
        (catalog / file.name).write_bytes(file.read_bytes())
    return bundle, catalog


def _write_golden(bundle: Path, slates: list) -> None:
    def offsets(sizes: list[int]) -> np.ndarray:
        return np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)

    candidates = [c for s in slates for c in s[2]]
    folder = bundle / "variants" / "cpu-fp32"
    save_file(
        {
            "user": np.array([s[0] for s in slates], np.int32),
            "as_of": np.full(len(slates), AS_OF),
            "slate_offsets": offsets([ITEMS] * len(slates)),
            "item": np.tile(np.arange(ITEMS, dtype=np.int32), len(slates)),
            "prefix_offsets": offsets([len(s[1]) for s in slates]),
            "prefix_tokens": np.concatenate([s[1] for s in slates]).astype(np.int32),
            "candidate_offsets": offsets([len(c) for c in candidates]),
            "candidate_tokens": np.concatenate(candidates).astype(np.int32),
            "log_odds": np.concatenate([s[3] for s in slates]).astype(np.float32),
        },
        folder / "golden.safetensors",
    )
    variant = json.loads((folder / "variant.json").read_text())
    variant["files"]["golden.safetensors"] = {}
    variant["parity"]["tolerance"] = 1e-3  # its log-odds reach 40
    write_json(folder / "variant.json", variant)
