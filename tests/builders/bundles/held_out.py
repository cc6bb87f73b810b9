"""A bundle, and beside it the catalog it was made from: with held-out interactions, as `rexit index` leaves it."""

from __future__ import annotations

import dataclasses
import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from builders.bundles.bundle import BundleOptions, write_bundle
from builders.bundles.bundle_files import entry
from builders.bundles.catalog import ITEMS, USERS, item_ids, make_catalog, user_ids
from builders.bundles.model import EXITS, make_weights, reference
from rexit import runtime

AS_OF = 100
"""Later than every interaction of the histories."""


class HeldOut(NamedTuple):
    bundle: Path
    catalog: Path


def write_ranked(place: Path, *, strings: bool = False, variants: tuple[str, ...] = ()) -> HeldOut:
    """`place/bundle` with golden samples, `place/catalog` with likes that its model can rank; returns both.

    Likes are drawn from the log-odds of all exits, by the NumPy reference, so that every head knows something. The prompts of
    the golden samples are the runtime's own (its tests hold them against a second implementation); their log-odds are the
    reference's.
    """
    rows, slates = _answers(strings)
    options = BundleOptions(make_catalog(strings=strings), golden=_golden(slates), variants=variants)
    return _write(place, options, rows, validation=AS_OF, test=AS_OF + ITEMS // 2)


@functools.cache
def _answers(strings: bool) -> tuple[list[tuple[Any, ...]], list[_Slate]]:
    """The interactions of all users, and the answers for the first four: NumPy takes most of a test's time for them."""
    users, items = user_ids(USERS, strings), item_ids(ITEMS, strings)
    weights, random = make_weights(), np.random.default_rng(5)
    rows: list[tuple[Any, ...]] = []
    slates: list[_Slate] = []
    plain = BundleOptions(make_catalog(strings=strings))
    with tempfile.TemporaryDirectory() as draft, runtime.open(write_bundle(Path(draft) / "bundle", plain)) as session:
        for user in users:
            prefix, candidates = session.prompt(user, items, as_of=AS_OF)
            log_odds = np.array([reference(weights, prefix, c) for c in candidates])
            slates.append(_Slate(prefix, candidates, log_odds))
            evidence = (log_odds / log_odds.std(0)).sum(1)
            liked = random.random(ITEMS) < 1 / (1 + np.exp(-3 * (evidence - np.median(evidence))))
            rows += [(user, items[i], AS_OF + n, bool(liked[i])) for n, i in enumerate(random.permutation(ITEMS))]
    return rows, slates[:4]


def write_two_tastes(place: Path, *, exits: tuple[int, ...] = EXITS, users: int = 30) -> HeldOut:
    """`place/bundle` and `place/catalog` of 40 items: where the two ids' sum is odd, 8 in 10 like it, else 2 in 10.
    The model knows nothing of it. Each user has ten interactions in each split, at times 1, 2, 3 …"""
    items, per_split = 40, 10
    random, rows = np.random.default_rng(0), []
    for user in user_ids(users):
        history = random.permutation(item_ids(items))[: 3 * per_split]
        rows += [(user, int(i), t + 1, bool(random.random() < (0.8 if (user + i) % 2 else 0.2))) for t, i in enumerate(history)]
    options = BundleOptions(make_catalog(users, items), exits=exits)
    return _write(place, options, rows, validation=per_split + 1, test=2 * per_split + 1)


def _write(place: Path, options: BundleOptions, rows: list[tuple[Any, ...]], validation: int, test: int) -> HeldOut:
    """validation, test: the times they begin at."""
    held_out = HeldOut(place / "bundle", place / "catalog")
    (held_out.catalog / "splits").mkdir(parents=True)
    frame = pl.DataFrame(rows, schema=["user", "item", "time", "liked"], orient="row")
    time, splits = pl.col("time"), {}
    parts = {"train": time < validation, "validation": (time >= validation) & (time < test), "test": time >= test}
    for name, which in parts.items():
        path = held_out.catalog / "splits" / f"{name}.parquet"
        part = frame.filter(which)
        part.write_parquet(path)
        splits[name] = {"path": f"splits/{name}.parquet", "rows": part.height, **entry(path)}
    write_bundle(held_out.bundle, dataclasses.replace(options, splits=splits))
    shutil.copytree(held_out.bundle / "catalog", held_out.catalog, dirs_exist_ok=True)
    return held_out


class _Slate(NamedTuple):
    """One user's answers for all items."""

    prefix: NDArray[np.int32]
    candidates: list[NDArray[np.int32]]
    log_odds: NDArray[np.float64]


def _golden(slates: list[_Slate]) -> dict[str, NDArray[Any]]:
    def offsets(sizes: list[int]) -> NDArray[np.int64]:
        return np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)

    candidates = [c for slate in slates for c in slate.candidates]
    return {
        "user": np.arange(len(slates), dtype=np.int32),
        "as_of": np.full(len(slates), AS_OF),
        "slate_offsets": offsets([ITEMS] * len(slates)),
        "item": np.tile(np.arange(ITEMS, dtype=np.int32), len(slates)),
        "prefix_offsets": offsets([len(slate.prefix) for slate in slates]),
        "prefix_tokens": np.concatenate([slate.prefix for slate in slates]).astype(np.int32),
        "candidate_offsets": offsets([len(c) for c in candidates]),
        "candidate_tokens": np.concatenate(candidates).astype(np.int32),
        "log_odds": np.concatenate([slate.log_odds for slate in slates]).astype(np.float32),
    }
