"""Snapshots: the retriever as it was at earlier moments, for training prompts.

The catalog's own graph has learned from the training likes, so in a training prompt it would know the answer. A service that
trains its retriever every night has no such leak: its retriever is older than the request. Snapshots are older, too.

1. Of a user's n training interactions in order, the i-th (from 0) is in part floor(i K / n) of K. If a later part holds the same
   time, it is in that part.
2. Snapshot k, 1 to K - 1, is LightGCN trained on all users' likes in the parts before k.
3. A training prompt retrieves with the snapshot of the part of its moment. In part 0 nothing is retrieved.

So no interaction trains both the retriever and the model that reads it, and no training row is given up. The last snapshot also
chooses the epochs of all of them, and of the catalog's own graph: those with which it finds most likes of the last part. So
validation, whose users choose and certify a policy, tells the retriever nothing. The scheme is ours. It is compared with giving
up a share and with cross-fitting in docs/notes/quality/baselines.md.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from rexit.exporter.options import LightGCNOptions
from rexit.exporter.retriever import lightgcn
from rexit.progress import Progress, silent

NEVER = np.iinfo(np.int64).max


def parts(train: pl.DataFrame, count: int) -> pl.DataFrame:
    """`train` (`user`, `time`, sorted by them) with one more column, `part`: int64 from 0 to `count` - 1."""
    place, n = pl.int_range(pl.len()).over("user"), pl.len().over("user")
    part = (place.cast(pl.Int64) * count) // n.cast(pl.Int64)
    return train.with_columns(part=part).with_columns(pl.col("part").max().over("user", "time"))


def begins(parted: pl.DataFrame, users: int, count: int) -> NDArray[np.int64]:
    """The time from which a user is in part 1, 2, …: int64 [users, count - 1]; NEVER if the user has no such part."""
    times = np.full((users, count - 1), NEVER)
    user, part, time = (parted[name].to_numpy() for name in ("user", "part", "time"))
    for k in range(1, count):
        late = part >= k
        np.minimum.at(times[:, k - 1], user[late], time[late])
    return times


def train_snapshots(
    train: pl.DataFrame, likes: lightgcn.Likes, options: LightGCNOptions, progress: Progress = silent
) -> tuple[dict[str, NDArray[Any]], int]:
    """Trains the snapshots, and chooses the epochs of all retrievers by the likes of the last part.

    Args:
        train: the training split, `user`, `item`, `time`, `liked`.
        likes: the edges of the catalog's own graph.
        options: LightGCN's hyperparameters, and the number of parts.
        progress: called with "epochs of LightGCN" and "LightGCN of earlier moments", the epochs done and in all.

    Returns:
        The tensors of snapshots.safetensors, see docs/format.md; and the epochs.
    """
    count = options.snapshots
    parted = parts(train, count)
    user, item, part = (parted[name].to_numpy() for name in ("user", "item", "part"))
    liked = parted["liked"].to_numpy()
    weight = parted["weight"].to_numpy() if "weight" in parted.columns else None
    rows = {"users": likes.users, "items": likes.items, "fold_in": likes.items}
    tables = {name: np.zeros((count - 1, n, options.dim), np.float16) for name, n in rows.items()}

    def edges(chosen: NDArray[np.bool_]) -> lightgcn.Edges:
        return user[chosen], item[chosen]

    def train_snapshot(k: int, epochs: int | None, epoch_done: Progress) -> int:
        """Trains snapshot k, unless there is no like before it. epochs: None: they are chosen. Returns the epochs."""
        before = liked & (part < k)
        known = edges(before)
        if not len(known[0]):
            return options.epochs if epochs is None else epochs
        targets = edges(liked & (part >= k) & (epochs is None))
        weights = None if weight is None else weight[before]
        earlier = replace(likes, graph=known, history=known, excluded=edges(part < k), targets=targets, weights=weights)
        retriever = lightgcn.train(earlier, options, epoch_done, epochs)
        for name, table in tables.items():
            table[k - 1] = getattr(retriever, name)
        return retriever.epochs

    epochs = train_snapshot(count - 1, None, lambda _, done, total: progress("epochs of LightGCN", done, total))
    stage, steps = "LightGCN of earlier moments", max(1, epochs)
    total = (count - 2) * steps
    for k in range(1, count - 1):
        before = (k - 1) * steps
        train_snapshot(k, epochs, lambda _, done, __, before=before: progress(stage, before + done, total))  # type: ignore[misc]
    progress(stage, total, total)
    return {"begins": begins(parted, likes.users, count), **tables}, epochs
