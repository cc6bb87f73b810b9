"""The user's tables in rows: what `rexit index` makes of its files before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from rexit.exporter.catalog.entities import read_entities, rows_of, unify_ids
from rexit.exporter.catalog.interactions import in_unit, read_interactions, unit_of_times, without_repeats
from rexit.exporter.catalog.negatives import with_negatives
from rexit.exporter.catalog.splits import assign
from rexit.exporter.catalog.unrated import with_unrated
from rexit.exporter.options import IndexOptions
from rexit.times import Timeline


@dataclass(frozen=True)
class Data:
    """Interactions, users and items.

    interactions: `user` and `item` (rows), `time`, `liked`, `split`, sorted by (user, time, item).
    samples: the interactions and the sampled negatives; what the splits hold.
    users, items: `id` and the columns of the files, ascending by id.
    split: how the splits were assigned, for catalog.json.
    dropped: number of repeated rows that were left out.
    """

    interactions: pl.DataFrame
    samples: pl.DataFrame
    users: pl.DataFrame
    items: pl.DataFrame
    split: Mapping[str, Any]
    timeline: Timeline
    dropped: int

    def edges(self, split: str, likes_only: bool = True) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """User rows and item rows of a split's interactions."""
        part = self.interactions.filter((pl.col("split") == split) & (pl.col("liked") | (not likes_only)))
        return part["user"].to_numpy(), part["item"].to_numpy()


def read_data(source: Path, items_path: Path, users_path: Path | None, options: IndexOptions) -> Data:
    """Reads the files of interactions, items and, if there is one, users. Raises InputError."""
    columns = options.columns
    rows = read_interactions(source, options)
    unit = unit_of_times(rows["time"]) if options.order == "time" else None
    rows = rows.with_columns(in_unit(rows["time"], unit, source))
    interactions = without_repeats(rows, options.repeats, source)
    dropped = len(rows) - len(interactions)
    items = read_entities(items_path, columns.item, "--item-column")
    if users_path is None:
        users = pl.DataFrame({"id": interactions["user"].unique()})
    else:
        users = read_entities(users_path, columns.user, "--user-column")
    entities = {}
    for what, frame, path in (("user", users, users_path or source), ("item", items, items_path)):
        values, ids = unify_ids([interactions[what], frame["id"]])
        entities[what] = frame.with_columns(id=ids).sort("id")
        interactions = interactions.with_columns(rows_of(values, entities[what]["id"], what, source, path).alias(what))
    if options.unrated:
        user_ids, item_ids = entities["user"]["id"], entities["item"]["id"]
        interactions = with_unrated(interactions, user_ids, item_ids, options.unrated, options.seed, source)
    interactions, split = assign(interactions, options, source)
    samples = interactions
    if options.implicit:
        samples = with_negatives(interactions, len(items), options.implicit_negatives, options.seed, source)
    times = interactions["time"].to_numpy()
    timeline = Timeline(options.order, unit, int(times.min()), int(times.max()))
    return Data(interactions, samples, entities["user"], entities["item"], split, timeline, dropped)
