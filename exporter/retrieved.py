"""Retrieved candidates: the slates that a service's look-up would hand on (`rexit.candidates`).

1. A user has a slate as of the first moment of each part: validation, test, and the parts of the training that snapshots have
   (`rexit.exporter.retriever.snapshots`).
2. Its candidates are the N items of the largest product with the user, folded in from the likes before, without the items met
   before: by the snapshot of the moment in training, by the catalog's own embeddings otherwise. Where the user has no embedding
   there is no slate; one of a part before the first snapshot neither.
3. Liked are the likes of the part. Those that were not retrieved are in no slate. The split's file has them with `candidate`
   false, since an update counts them.
4. A training slate without a like would teach little and is left out; validation and test have them, as a service does.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.sparse import csr_array

from rexit.bundle.catalog import CANDIDATE, SPLITS, Catalog
from rexit.errors import InputError
from rexit.exporter.catalog.interactions import WEIGHT
from rexit.exporter.retriever.snapshots import parts
from rexit.progress import Progress, silent

_PRODUCTS = 1 << 23  # computed at once
_SLATE = ("user", "split", "part")

Recalls = dict[str, float | None]


def retrieved(
    catalog: Catalog, interactions: pl.DataFrame, count: int, training_parts: int, path: Path, progress: Progress = silent
) -> tuple[pl.DataFrame, Recalls]:
    """Retrieves the candidates of all slates.

    Args:
        catalog: its tables, and its snapshots if there are training slates.
        interactions: `user`, `item` (rows), `time`, `liked`, `split` and inputs, sorted by (user, time, item).
        count: N.
        training_parts: of each user's training interactions; 0: there are no training slates.
        path: the interactions file, for messages.
        progress: called with "candidates", the slates done and in all.

    Returns:
        Candidates and the likes that were not retrieved, sorted by (user, time, item), with `candidate`; and for each split the
        share of its likes that slates have, mean over users.

    Raises:
        InputError: the catalog has fewer items than N, or no slate of a split has a like.
    """
    items = len(catalog.items)
    if count > items:
        raise InputError(f"candidates retrieved:{count}, expected at most the {items} items of the catalog")
    train = pl.col("split") == SPLITS[0]
    parted = interactions.filter(~train).with_columns(part=pl.lit(-1, pl.Int64))
    if training_parts:
        parted = pl.concat([parts(interactions.filter(train), training_parts), parted])
    moments = parted.group_by(*_SLATE, maintain_order=True).first()
    moments = moments.with_columns(table=pl.Series(_tables(catalog, moments)))
    moments = moments.filter(pl.col("table") != _NONE).sort("table", maintain_order=True).with_row_index("slate")
    chosen = []
    for done, (slate, item) in _searches(catalog, moments, count):
        chosen.append(pl.DataFrame({"slate": slate.astype(np.uint32), "item": item.astype(np.int32)}))
        progress("candidates", done, len(moments))
    weights = [pl.col(WEIGHT).sum()] if WEIGHT in interactions.columns else []
    likes = parted.filter("liked").group_by(*_SLATE, "item").agg(pl.lit(True).alias("liked"), *weights)
    rows = pl.concat([moments.select("slate").clear().with_columns(item=pl.lit(None, pl.Int32)), *chosen])
    rows = rows.join(moments.drop("item", "liked", WEIGHT, strict=False), on="slate", maintain_order="left")
    rows = rows.join(likes.with_columns(pl.col("item").cast(pl.Int32)), on=[*_SLATE, "item"], how="left")
    rows = rows.with_columns(pl.col("liked").fill_null(False), pl.col(f"^{WEIGHT}$").fill_null(1))
    recalls = _recalls(likes, rows)
    rows = rows.filter((pl.col("split") != SPLITS[0]) | pl.col("liked").any().over("slate"))
    for split in SPLITS if training_parts else ():
        if not rows.filter((pl.col("split") == split) & pl.col("liked")).height:
            raise InputError(
                f"{path}: candidates retrieved:{count}: no like of the {split} split is among them: its users have no likes "
                "before, the embeddings do not know its items, or more candidates are needed"
            )
    rows = rows.select(interactions.columns).with_columns(pl.lit(True).alias(CANDIDATE))
    hits = rows.filter("liked").select("user", "item", "split")
    missed = interactions.filter("liked").join(hits, on=["user", "item", "split"], how="anti")
    missed = missed.with_columns(pl.lit(False).alias(CANDIDATE))
    return pl.concat([rows, missed], how="vertical_relaxed").sort("user", "time", "item", maintain_order=True), recalls


_NONE, _OWN = -2, -1


def _tables(catalog: Catalog, moments: pl.DataFrame) -> NDArray[np.int64]:
    """What each moment retrieves with: the number of a snapshot, _OWN: the catalog's embeddings, _NONE: nothing."""
    table = np.full(len(moments), _OWN)
    training = (moments["part"] >= 0).to_numpy()
    if training.any():
        user, time = (moments[name].to_numpy()[training] for name in ("user", "time"))
        table[training] = (catalog.snapshots["begins"][user] <= time[:, None]).sum(1) - 1
        table[training & (table < 0)] = _NONE
    return table


def _searches(catalog: Catalog, moments: pl.DataFrame, count: int) -> Iterator[tuple[int, tuple[NDArray[np.int64], ...]]]:
    """Yields the moments done, and slates with their items, int64 each."""
    step = max(1, _PRODUCTS // len(catalog.items))
    for (table,), group in moments.group_by("table", maintain_order=True):
        own = table == _OWN
        source = catalog.item_table if own else catalog.snapshots
        items, fold_in = (source[name] if own else source[name][table] for name in ("embeddings" if own else "items", "fold_in"))
        embeddings, fold_in = items.astype(np.float64), fold_in.astype(np.float64)
        zero = ~embeddings.any(1)
        for part in group.iter_slices(step):
            met, liked = _before(catalog, part["user"].to_numpy(), part["time"].to_numpy())
            users = liked @ fold_in
            largest = np.abs(users).max(1)
            users = np.ldexp(users, -np.frexp(largest)[1][:, None]).astype(np.float16).astype(np.float64)
            products = users @ embeddings.T
            products[:, zero] = -np.inf
            products[met.nonzero()] = -np.inf
            products[largest == 0] = -np.inf
            best = np.argsort(-products, axis=1, kind="stable")[:, :count]
            known = np.isfinite(np.take_along_axis(products, best, 1))
            slates = np.repeat(part["slate"].to_numpy().astype(np.int64), known.sum(1))
            yield int(part["slate"][-1]) + 1, (slates, best[known])


def _before(catalog: Catalog, users: NDArray[np.int64], times: NDArray[np.int64]) -> tuple[csr_array, csr_array]:
    """How often each user met, and liked, each item before a moment: [n, I] each."""
    histories = catalog.user_table
    offsets, shape = histories["history_offsets"], (len(users), len(catalog.items))
    begins, ends = offsets[users], offsets[users.astype(np.int64) + 1]
    owner = np.repeat(np.arange(len(users)), ends - begins)
    place = np.arange(len(owner)) - np.repeat(np.cumsum(ends - begins) - (ends - begins), ends - begins) + begins[owner]
    earlier = histories["history_times"][place] < times[owner]
    owner, place = owner[earlier], place[earlier]
    item, liked = histories["history_items"][place], histories["history_liked"][place] > 0
    return tuple(
        csr_array((np.ones(int(mask.sum())), (owner[mask], item[mask])), shape=shape)
        for mask in (np.ones(len(owner), bool), liked)
    )


def _recalls(likes: pl.DataFrame, rows: pl.DataFrame) -> Recalls:
    """The share of each split's likes that slates have, mean over users; likes of the first training part have no slate."""
    expected = likes.filter(pl.col("part") != 0)
    hits = rows.filter("liked").select(*_SLATE, "item", hit=pl.lit(True))
    judged = expected.join(hits, on=[*_SLATE, "item"], how="left").with_columns(pl.col("hit").fill_null(False))
    users = judged.group_by("split", "user").agg(pl.col("hit").mean())
    means = dict(users.group_by("split").agg(pl.col("hit").mean()).iter_rows())
    return {split: means.get(split) for split in SPLITS}
