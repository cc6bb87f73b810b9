"""The user's tables in rows: what `rexit index` makes of its files before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from tokenizers import Tokenizer

from rexit.errors import InputError
from rexit.exporter.catalog import source_tables
from rexit.exporter.catalog.catalog_files import by_range
from rexit.exporter.catalog.draws import with_draws
from rexit.exporter.catalog.input_columns import InputRule, known_inputs, with_codes
from rexit.exporter.catalog.interactions import (
    WEIGHT,
    in_unit,
    interaction_columns,
    read_interactions,
    unit_of_times,
    without_repeats,
)
from rexit.exporter.catalog.source_tables import Needs, column_option, read_entities, rows_of, unify_ids
from rexit.exporter.catalog.splits import assign
from rexit.exporter.options import IndexOptions
from rexit.exporter.prompt.template import Template
from rexit.format.bundle.catalog import SPLITS
from rexit.format.bundle.inputs import Input
from rexit.format.times import Timeline


def check_columns(options: IndexOptions, template: Template, interactions: Path, items: Path | None, users: Path | None) -> None:
    """Raises InputError, naming every column that is missing in any file.

    Args:
        options: names of the columns.
        template: prompts may place columns of items, users and interactions.
        interactions: the file of interactions.
        items, users: their files; None: there is none.
    """
    columns = options.columns
    files: dict[Path, Needs] = {interactions: interaction_columns(options, template.inputs, template.score_names)}
    if items is not None:
        files[items] = {columns.item: column_option("item")} | template.columns("item")
    if users is not None:
        files[users] = {columns.user: column_option("user")} | template.columns("user")
    source_tables.check_columns(files)


@dataclass(frozen=True)
class Data:
    """Interactions, users and items.

    interactions: `user` and `item` (rows, int32), `time`, `liked`, `split`, and `input.NAME` (codes as text) for each
        of `inputs`, `score.NAME` that exit zero reads, `weight` if a column has it, sorted by (user, time, item).
    samples: what the splits hold, the interactions and drawn candidates; of retrieved candidates the interactions alone.
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
    inputs: tuple[Input, ...]

    def edges(self, split: str, likes_only: bool = True) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """User rows and item rows of a split's interactions."""
        rows = self.interactions["split"] == split
        if likes_only:
            rows &= self.interactions["liked"]
        user, item = (self.interactions[name].filter(rows).to_numpy() for name in ("user", "item"))
        return user, item

    @property
    def weights(self) -> NDArray[np.float32] | None:
        """Weights of the training likes, in the order of `edges`; None: all count the same."""
        if WEIGHT not in self.interactions.columns:
            return None
        return self.interactions.filter((pl.col("split") == SPLITS[0]) & pl.col("liked"))[WEIGHT].to_numpy()


def read_data(
    source: Path,
    items_path: Path,
    users_path: Path | None,
    options: IndexOptions,
    rules: Sequence[InputRule],
    tokenizer: Tokenizer,
    scores: Sequence[str] = (),
) -> Data:
    """Reads the files of interactions, items and, if there is one, users. rules: the template's inputs.
    tokenizer: tokenizes their texts. scores: the first stages' that exit zero reads. Raises InputError."""
    columns = options.columns
    if scores and options.slates.kind != "rated":
        raise InputError(
            f"{source}: candidates {options.slates} have no scores of first stages, which the template's exit zero reads"
        )
    rows = read_interactions(source, options, inputs=rules, scores=scores)
    inputs = known_inputs(rules, rows, source)
    rows = with_codes(rows, inputs, tokenizer, source)
    unit = unit_of_times(rows["time"]) if options.order == "time" else None
    rows = rows.with_columns(in_unit(rows["time"], unit, source))
    items = read_entities(items_path, columns.item)
    users = read_entities(users_path, columns.user) if users_path else pl.DataFrame({"id": rows["user"].unique()})
    entities = {}
    for what, frame, path in (("user", users, users_path or source), ("item", items, items_path)):
        values, ids = unify_ids([rows[what], frame["id"]])
        entities[what] = frame.with_columns(id=ids).sort("id")
        rows = rows.with_columns(rows_of(values, entities[what]["id"], what, source, path).alias(what))
        del values  # gigabytes of a large catalog
    ids_of = {what: frame["id"] for what, frame in entities.items()}
    parts = [without_repeats(part, source, ids_of) for part in by_range(rows, "user")]
    count = len(rows)
    del rows
    interactions = pl.concat(parts, rechunk=True)
    del parts
    dropped = count - len(interactions)
    interactions, split = assign(interactions, options, source)
    samples = interactions
    if options.slates.drawn:
        samples = with_draws(interactions, len(items), options.slates, options.seed, source)
    times = interactions["time"].to_numpy()
    timeline = Timeline(options.order, int(times.min()), int(times.max()), unit)
    return Data(interactions, samples, entities["user"], entities["item"], split, timeline, dropped, inputs)
