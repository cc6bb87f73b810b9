"""Retrieved candidates: the slates that a service's look-up would hand on (`rexit.format.candidates`).

1. A user has a slate as of the first moment of each part: validation, test, and the parts of the training that snapshots have
   (`rexit.exporter.retriever.snapshots`).
2. Its candidates are those of a request with `retrieve` N as of that moment: by its snapshot in training, by the catalog's own
   embeddings otherwise. Where the user has no embedding there is no slate; one of a part before the first snapshot neither.
3. Liked are the likes of the part. Those that were not retrieved are in no slate. The split's file has them with `candidate`
   false, since an update counts them.
4. A training slate without a like would teach little and is left out; validation and test have them, as a service does.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

from rexit.errors import InputError
from rexit.exporter.catalog.interactions import WEIGHT
from rexit.exporter.prompt.builder import PromptBuilder, Rows, RowSlate
from rexit.exporter.retriever.snapshots import parts
from rexit.format.bundle.catalog import CANDIDATE, SPLITS, Catalog
from rexit.progress import Progress, silent

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
    if count > len(catalog.items):
        raise InputError(f"candidates retrieved:{count}, expected at most the {len(catalog.items)} items of the catalog")
    train = pl.col("split") == SPLITS[0]
    parted = interactions.filter(~train).with_columns(part=pl.lit(-1, pl.Int64))
    if training_parts:
        parted = pl.concat([parts(interactions.filter(train), training_parts), parted])
    moments = parted.group_by(*_SLATE, maintain_order=True).first().sort("part", maintain_order=True).with_row_index("slate")
    chosen = list(_retrieve(catalog, moments, count, progress))
    sizes, items = [len(rows) for rows in chosen], np.concatenate([np.empty(0, np.int64), *chosen]).astype(np.int32)
    weights = [pl.col(WEIGHT).sum()] if WEIGHT in interactions.columns else []
    likes = parted.filter("liked").group_by(*_SLATE, "item").agg(pl.lit(True).alias("liked"), *weights)
    rows = pl.DataFrame({"slate": np.repeat(moments["slate"].to_numpy(), sizes), "item": items})
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


def _retrieve(catalog: Catalog, moments: pl.DataFrame, count: int, progress: Progress) -> Iterator[Rows]:
    """Yields the items of each moment, none where the user has no embedding. moments: those of the training last."""
    for training, group in moments.group_by(pl.col("part") >= 0, maintain_order=True):
        slates = (RowSlate(user, (), time) for user, time in group.select("user", "time").iter_rows())
        rows = PromptBuilder(catalog, training=bool(training[0])).retrieve(slates, count)
        for slate, items in zip(group["slate"].to_list(), rows, strict=True):
            yield items
            progress("candidates", slate + 1, len(moments))


def _recalls(likes: pl.DataFrame, rows: pl.DataFrame) -> Recalls:
    """The share of each split's likes that slates have, mean over users; likes of the first training part have no slate."""
    expected = likes.filter(pl.col("part") != 0)
    hits = rows.filter("liked").select(*_SLATE, "item", hit=pl.lit(True))
    judged = expected.join(hits, on=[*_SLATE, "item"], how="left").with_columns(pl.col("hit").fill_null(False))
    users = judged.group_by("split", "user").agg(pl.col("hit").mean())
    means = dict(users.group_by("split").agg(pl.col("hit").mean()).iter_rows())
    return {split: means.get(split) for split in SPLITS}
