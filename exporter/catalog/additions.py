"""An updated catalog's users, items and interactions: those of the old catalog and new ones, in the new rows.

1. Known ids keep their order; new ids take their places among them.
2. The splits of earlier interactions stay. Of the users with new interactions, the new ones of one in ten are `validation`, of
   one in ten `test`, of all others `train`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from rexit.errors import InputError
from rexit.exporter.catalog.draws import with_draws
from rexit.exporter.catalog.interactions import in_unit, unit_of_times
from rexit.exporter.catalog.source_tables import read_entities, rows_of, unify_ids
from rexit.exporter.options import Columns, IndexOptions
from rexit.format.bundle.catalog import CANDIDATE, SCORE, SPLITS, Catalog
from rexit.format.bundle.inputs import COLUMN as INPUT

HELD_OUT = 10
"""One in this many of the users with new interactions is held out for validation, and one for test."""

Rows = NDArray[np.int64]

_ORDER = ("user", "time", "item")


@dataclass(frozen=True)
class Entities:
    """All users or all items of the updated catalog.

    ids: ascending. old_rows: int64, the row of each row of the old catalog. rows: int64, of the new interactions.
    texts: the file's columns, None without a file. text_rows: int64, their rows. new: number of new ids.
    """

    ids: pl.Series
    old_rows: Rows
    rows: Rows
    texts: pl.DataFrame | None
    text_rows: Rows
    new: int

    def moved(self, table: NDArray[np.float16]) -> NDArray[np.float16]:
        """A table [n, D] of the old catalog in the new rows; zeros for new ids."""
        out = np.zeros((len(self.ids), table.shape[1]), np.float16)
        out[self.old_rows] = table
        return out


def read_additions(old: Catalog, what: str, values: pl.Series, source: Path, path: Path | None, columns: Columns) -> Entities:
    """Reads the file of new users or items.

    Args:
        old: the catalog to update.
        what: `user` or `item`.
        values: the ids of the new interactions.
        source: the interactions file, for messages.
        path: the users' or items' file; None: there is none.
        columns: names of the id columns.

    Raises:
        InputError: an id of another type than the catalog's, or an id that needs a row in the file and has none.
    """
    old_ids = old.users if what == "user" else old.items
    known = pl.Series("id", old_ids.take(np.arange(len(old_ids))), pl.Int64 if old_ids.kind == "int64" else pl.String)
    texts = None if path is None else read_entities(path, getattr(columns, what))
    values = _same_type(known.dtype, values, what, source, old)
    listed = known.clear() if texts is None or path is None else _same_type(known.dtype, texts["id"], what, path, old)
    # New users need no row if prompts place nothing of them.
    table = old.user_table if what == "user" else old.item_table
    needs_row = any(name.startswith("field.") for name in table) or (what == "item" and bool(old.encoded))
    ids = pl.concat([known, listed] if needs_row else [known, values, listed]).unique().sort()
    matches = rows_of(values, ids, what, source, old.path if path is None else path)
    kept = (rows_of(column, ids, what, source, source) for column in (known, listed))
    rows, old_rows, text_rows = (column.to_numpy().astype(np.int64) for column in (matches, *kept))
    return Entities(ids, old_rows, rows, texts, text_rows, len(ids) - len(known))


def _same_type(dtype: pl.DataType, ids: pl.Series, what: str, path: Path, old: Catalog) -> pl.Series:
    """The ids in the catalog's type. Raises InputError for text where the catalog has integers."""
    if dtype == pl.Int64 and unify_ids([ids])[0].dtype != dtype:
        text = next(value for value in ids if unify_ids([pl.Series([value])])[0].dtype != dtype)
        raise InputError(f"{path}: {what} {text!r}: the {what} ids of {old.path} are integers")
    return ids.cast(dtype)


def in_catalog_unit(frame: pl.DataFrame, old: Catalog, path: Path) -> pl.DataFrame:
    """New interactions with times in the catalog's unit. Raises InputError for times that look like another unit."""
    timeline = old.timeline
    if timeline.by != "time":
        return frame
    times = in_unit(frame["time"], timeline.unit, path)
    first, last = int(times.to_numpy().min()), int(times.to_numpy().max())
    unit = unit_of_times(times)
    if timeline.unit is not None and unit not in (None, timeline.unit):
        raise InputError(f"{path}: times {first} to {last} look like {unit}, those of {old.path} are {timeline.unit}")
    if last < timeline.first:
        raise InputError(
            f"{path}: times {timeline.text(first)} to {timeline.text(last)} are before the first interaction of {old.path}, "
            f"{timeline.text(timeline.first)}"
        )
    return frame.with_columns(times)


@dataclass(frozen=True)
class MergedData:
    """interactions: all, sorted by (user, time, item): `user`, `item` (rows), `time`, `liked`, `new`.
    former: rows of the old catalog's splits. fresh: new interactions, with drawn candidates. Both have a `split`.
    new: number of new interactions."""

    interactions: pl.DataFrame
    former: pl.DataFrame
    fresh: pl.DataFrame
    new: int

    def likes(self) -> tuple[Rows, Rows]:
        """User rows and item rows of the training likes."""
        liked = pl.concat([part.filter("liked").select("user", "item", "split") for part in (self.former, self.fresh)])
        train = liked.filter(pl.col("split") == SPLITS[0])
        return train["user"].to_numpy(), train["item"].to_numpy()

    def samples(self, fresh: pl.DataFrame) -> pl.DataFrame:
        """All rows of the splits, sorted. fresh: those of `fresh`, or what was retrieved for them."""
        return pl.concat([self.former, fresh.select(self.former.columns)], how="vertical_relaxed").sort(
            *_ORDER, maintain_order=True
        )


def merge(old: Catalog, frame: pl.DataFrame, entities: Mapping[str, Entities], options: IndexOptions, path: Path) -> MergedData:
    """Adds new interactions to the old catalog's.

    Args:
        old: the catalog to update.
        frame: new interactions, `user`, `item`, `time`, `liked` and inputs, without repeats.
        entities: the updated catalog's `user` and `item`.
        options: how the catalog was made.
        path: the interactions file, for messages.

    Raises:
        InputError: a user has too few unmet items to sample negatives from.
    """
    users, items = entities["user"], entities["item"]
    inputs = [INPUT + name for name in old.inputs.names]
    scores = [SCORE + name for name in old.score_names]
    histories = old.user_table
    owner = np.repeat(np.arange(len(old.users)), np.diff(histories["history_offsets"]))
    known = pl.DataFrame(
        {
            "user": users.old_rows[owner],
            "item": items.old_rows[histories["history_items"]],
            "time": histories["history_times"],
            "liked": histories["history_liked"] > 0,
            "new": False,
        }
    )
    # Without times, places in the order stand for them: new interactions come after all others.
    after = 0 if options.order == "time" else int(histories["history_times"].max()) + 1
    fresh = frame.with_columns(
        user=pl.Series(users.rows), item=pl.Series(items.rows), time=pl.col("time") + after, new=pl.lit(True)
    ).select(*known.columns, *inputs, *scores)
    fresh = fresh.join(known, on=list(_ORDER), how="anti", maintain_order="left")
    merged = pl.concat([known, fresh], how="diagonal")
    merged = merged.sort(*_ORDER, maintain_order=True)
    assigned = merged.join(_splits(fresh["user"].unique().sort()), on="user", how="left", maintain_order="left")
    if options.slates.drawn:
        seed = (options.seed, len(merged))  # else each update would draw the same items
        assigned = with_draws(assigned, len(items.ids), options.slates, seed, path, likes=pl.col("liked") & pl.col("new"))
    added = assigned.filter("new").select(*_ORDER, "liked", "split", *inputs, *scores)
    former = [_former(old, name, users, items, inputs) for name in SPLITS]
    return MergedData(merged, pl.concat(former), added, len(fresh))


def _former(old: Catalog, split: str, users: Entities, items: Entities, inputs: Sequence[str]) -> pl.DataFrame:
    """A split of the old catalog in the new rows; of retrieved candidates also the likes that were not."""
    part = old.split(split, missed=True)
    written = np.array([" ".join(map(str, codes)) for codes in part.codes], object)
    columns = {
        "user": users.old_rows[part.users],
        "time": part.times,
        "item": items.old_rows[part.items],
        "liked": part.liked,
        "split": pl.Series([split], dtype=pl.String).new_from_index(0, len(part)),
        **{name: pl.Series(written[places], dtype=pl.String) for name, places in zip(inputs, part.inputs.T, strict=True)},
        **{SCORE + name: numbers for name, numbers in part.scores.items()},
        **({} if part.missed is None else {CANDIDATE: ~part.missed}),
    }
    return pl.DataFrame(columns)


def _splits(users: pl.Series) -> pl.DataFrame:
    """`user` and the `split` of the user's new interactions."""
    place = np.random.default_rng(0).permutation(len(users))
    share = len(users) // HELD_OUT
    split = np.where(place < share, SPLITS[1], np.where(place < 2 * share, SPLITS[2], SPLITS[0]))
    return pl.DataFrame({"user": users, "split": pl.Series(split.tolist(), dtype=pl.String)})
