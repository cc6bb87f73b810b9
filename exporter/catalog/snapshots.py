"""The retriever as it was at earlier moments: what training prompts retrieve with.

The catalog's own graph has learned from the training likes, so in a training prompt it would know the answer. A service that
trains its retriever every night does not have this: what it retrieves with is older than what it is asked. So are snapshots.

1. Of a user's n training interactions in order, the i-th (from 0) is in part floor(i K / n) of K; where a later part holds the
   same time, in that one.
2. Snapshot k of 1 to K - 1 is LightGCN trained on the likes of the parts before k, of all users.
3. A training prompt asks the snapshot of the part that its moment falls into. In part 0 there is none: nothing is retrieved.

So no interaction trains both the retriever and the model that asks it, and no training row is given up for it. The scheme is
ours; `benchmarks/ranking/retrieval_leak.py` compares it with giving up a share, cross-fitting and leaving edges out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from rexit.exporter.catalog import lightgcn
from rexit.exporter.options import LightGCNOptions

NEVER = np.iinfo(np.int64).max


def parts(train: pl.DataFrame, count: int) -> pl.DataFrame:
    """`train` (`user`, `time`, sorted by them) with one more column, `part`: int64 from 0 to `count` - 1."""
    place, n = pl.int_range(pl.len()).over("user"), pl.len().over("user")
    part = (place.cast(pl.Int64) * count) // n.cast(pl.Int64)
    return train.with_columns(part=part).with_columns(pl.col("part").max().over("user", "time"))


def begins(parted: pl.DataFrame, users: int, count: int) -> NDArray[np.int64]:
    """int64 [users, count - 1]: the time from which a user is in part 1, 2, ...; NEVER where that does not come."""
    times = np.full((users, count - 1), NEVER)
    user, part, time = (parted[name].to_numpy() for name in ("user", "part", "time"))
    for k in range(1, count):
        late = part >= k
        np.minimum.at(times[:, k - 1], user[late], time[late])
    return times


def train_snapshots(
    train: pl.DataFrame,
    likes: lightgcn.Likes,
    count: int,
    epochs: int,
    options: LightGCNOptions,
    told: Callable[[int, int], None],
) -> dict[str, NDArray[Any]]:
    """The tensors of snapshots.safetensors, as docs/format.md has them.

    train: the training split with `user`, `item`, `time`, `liked`. likes: of the catalog's own graph. epochs: for each, what
    validation chose for that one. `told` is given the number of epochs done and to do.
    """
    parted = parts(train, count)
    liked = parted.filter("liked")
    user, item, part = (liked[name].to_numpy() for name in ("user", "item", "part"))
    nothing = np.empty(0, np.int64)
    fixed = replace(options, epochs=epochs)
    rows = {"users": likes.users, "items": likes.items, "fold_in": likes.items}
    tables = {name: np.zeros((count - 1, n, options.dim), np.float16) for name, n in rows.items()}
    each = max(1, epochs)
    for k in range(1, count):
        before, total = (k - 1) * each, (count - 1) * each
        told(before, total)
        early = part < k
        if early.any():
            mine = replace(likes, graph=(user[early], item[early]), wanted=(nothing, nothing))

            def more(_: str, done: int, __: int, before: int = before, total: int = total) -> None:
                told(before + done, total)

            retriever = lightgcn.train(mine, fixed, more)
            for name, table in tables.items():
                table[k - 1] = getattr(retriever, name)
    told(total, total)
    return {"begins": begins(parted, likes.users, count), **tables}
