"""`rexit index --update`: a catalog with what happened since, for the model that was trained on it.

1. Tokenizer and template have to be the catalog's: their fingerprint, and what the template compiles to, are compared with it.
2. Known users and items keep their ids, their embeddings and, unless the items file says otherwise, their texts and vectors. New
   ids take their places in the order of ids.
3. New texts become pieces behind the old ones. None is longer than the longest of its column was: the limits stay.
4. The splits of earlier interactions stay. Of the new ones, those of one user in ten are `validation`, of one in ten `test`.
5. New users and items are placed among the known ones by `rexit.exporter.catalog.fold_in`; nothing is trained.
6. Similar users are those that a request would find, as always; only rows that can have changed are searched for again. Lists
   of users keep their centres, and with them the catalog's way to search: whoever is new goes to the nearest.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from rexit import __version__
from rexit.bundle.catalog import SPLITS, Catalog
from rexit.bundle.vectors import VectorIds
from rexit.bundle.writer import new_folder
from rexit.errors import BundleError, InputError
from rexit.exporter.catalog import encoded, fold_in, tables
from rexit.exporter.catalog.folder import check_place, seal, write
from rexit.exporter.catalog.interactions import (
    counted,
    read_entities,
    read_interactions,
    rows_of,
    unify_ids,
    unit_of_times,
    without_repeats,
)
from rexit.exporter.catalog.lists import Lists
from rexit.exporter.catalog.negatives import with_negatives
from rexit.exporter.catalog.neighbours import nonzero_rows, updated_similar_users
from rexit.exporter.options import Columns, IndexOptions
from rexit.exporter.prompt.language import Language
from rexit.exporter.prompt.lengths import prompt_lengths
from rexit.exporter.prompt.more_pieces import MorePieces
from rexit.progress import Progress, silent

HELD_OUT = 10
"""Of the users with new interactions, one in so many is held out for validation, and one for test."""

Rows = NDArray[np.int64]


def update_catalog(
    catalog: Path,
    interactions: Path,
    tokenizer: str,
    template: Path,
    out: Path,
    *,
    items: Path | None = None,
    users: Path | None = None,
    user_column: str = "user_id",
    item_column: str = "item_id",
    progress: Progress = silent,
) -> Mapping[str, Any]:
    """Writes the catalog folder `out`, whole or not at all, and returns what its catalog.json says.

    catalog: made by `rexit index`, with its splits; it is not changed. interactions: those since. items, users: a row for each
    new one; a row for a known item or user replaces its texts and vectors. Raises InputError, BundleError.
    """
    old = Catalog.open(Path(catalog))
    if edited := old.edited():
        raise BundleError(edited[0])
    check_place(out)
    language = Language.load(tokenizer, template)
    pieces = MorePieces.of(old, language)
    progress("read", 0, 1)
    options = _options(old, user_column, item_column)
    rows = _counted(read_interactions(interactions, options, all=False), old, interactions)
    frame = without_repeats(rows, options.repeats, interactions)
    files = {"user": users, "item": items}
    sides = {what: _side(old, what, frame[what], interactions, path, options.columns) for what, path in files.items()}
    fields = {what: pieces.fields(what, side.texts, side.text_rows, side.old, len(side.ids)) for what, side in sides.items()}
    of_items = sides["item"]
    vectors = encoded.updated(old, of_items.texts, of_items.text_rows, of_items.old, len(of_items.ids))
    data = _merge(old, frame, sides, options, interactions)
    progress("read", 1, 1)
    content, unplaced = _content(old, data, sides, fields, progress)
    content["pieces.safetensors"] = pieces.tensors()
    info = _info(old, data, sides, pieces, unplaced, repeats=len(rows) - data.new)
    if (ids := VectorIds.of(info, str(template))) and ids.too_many:
        raise InputError(f"{catalog}: {ids.too_many}")
    with new_folder(out) as folder:
        progress("write", 0, 1)
        info |= encoded.write(folder, vectors)
        made = write(folder, info, content.items(), data.asked, sides["user"].ids, sides["item"].ids)
        info["prompt"]["lengths"] = prompt_lengths(made)
        seal(folder, info)
        progress("write", 1, 1)
    return info


def _options(old: Catalog, user_column: str, item_column: str) -> IndexOptions:
    """How the catalog's interactions were read."""
    label, order = old.info["label"], old.info["order"]
    implicit = "sampled" in label
    time = {"time": order["column"]} if order["by"] == "time" else {}
    rating = {} if implicit else {"rating": label["column"]}
    return IndexOptions(
        columns=Columns(user=user_column, item=item_column, **time, **rating),
        positive_at=None if implicit else label["positive_at"],
        implicit=implicit,
        **({"implicit_negatives": label["sampled"], "seed": label["seed"]} if implicit else {}),
        repeats=old.info["repeats"]["by"],
        order=order["by"],
    )


def _counted(frame: pl.DataFrame, old: Catalog, path: Path) -> pl.DataFrame:
    """New interactions with their times in the catalog's unit. Raises InputError for times that cannot be meant so."""
    timeline = old.timeline
    if timeline.by != "time":
        return frame
    times = counted(frame["time"], timeline.unit, path)
    first, last = int(times.to_numpy().min()), int(times.to_numpy().max())
    seen = unit_of_times(times)
    if timeline.unit is not None and seen not in (None, timeline.unit):
        raise InputError(f"{path}: times {first} to {last} look like {seen}, those of {old.path} are {timeline.unit}")
    if last < timeline.first:
        raise InputError(
            f"{path}: times {timeline.text(first)} to {timeline.text(last)} are before the first interaction of {old.path}, "
            f"{timeline.text(timeline.first)}"
        )
    return frame.with_columns(times)


@dataclass(frozen=True)
class _Side:
    """All users or all items. ids: ascending. old: the row here of each row of the old catalog. rows: of the new interactions.
    texts: what the file says, vectors too; None without a file. text_rows: theirs. new: how many the old catalog does not
    have."""

    ids: pl.Series
    old: Rows
    rows: Rows
    texts: pl.DataFrame | None
    text_rows: Rows
    new: int


def _side(old: Catalog, what: str, used: pl.Series, source: Path, path: Path | None, columns: Columns) -> _Side:
    kept = old.users if what == "user" else old.items
    known = pl.Series("id", kept.take(np.arange(len(kept))), pl.Int64 if kept.kind == "int64" else pl.String)
    texts = None if path is None else read_entities(path, getattr(columns, what), f"--{what}-column")
    named = _of_kind(known.dtype, used, what, source, old)
    listed = known.clear() if texts is None or path is None else _of_kind(known.dtype, texts["id"], what, path, old)
    # Users without a row of their own are welcome where prompts say nothing of them.
    table = old.user_table if what == "user" else old.item_table
    needs_row = any(name.startswith("field.") for name in table) or (what == "item" and bool(old.encoded))
    ids = pl.concat([known, listed] if needs_row else [known, named, listed]).unique().sort()
    rows = rows_of(named, ids, what, source, old.path if path is None else path).to_numpy()
    at, text_rows = (rows_of(column, ids, what, source, source).to_numpy() for column in (known, listed))
    return _Side(ids, at, rows, texts, text_rows, len(ids) - len(known))


def _of_kind(kind: pl.DataType, ids: pl.Series, what: str, path: Path, old: Catalog) -> pl.Series:
    """The ids of a file as those of the catalog are. Raises InputError for one that is no integer where those are."""
    if kind == pl.Int64 and unify_ids([ids])[0].dtype != kind:
        strange = next(id for id in ids if unify_ids([pl.Series([id])])[0].dtype != kind)
        raise InputError(f"{path}: {what} {strange!r}: the {what} ids of {old.path} are integers")
    return ids.cast(kind)


@dataclass(frozen=True)
class _Data:
    """interactions: all of them, sorted by (user, time, item): `user`, `item` (rows), `time`, `liked`, `new`. asked: those with a
    `split`, and what was sampled beside them."""

    interactions: pl.DataFrame
    asked: pl.DataFrame

    @property
    def new(self) -> int:
        return int(self.interactions["new"].sum())

    def likes(self) -> tuple[Rows, Rows]:
        train = self.asked.filter((pl.col("split") == SPLITS[0]) & pl.col("liked"))
        return train["user"].to_numpy(), train["item"].to_numpy()


_ORDER = ("user", "time", "item")


def _merge(old: Catalog, frame: pl.DataFrame, sides: Mapping[str, _Side], options: IndexOptions, path: Path) -> _Data:
    users, items = sides["user"], sides["item"]
    histories = old.user_table
    owner = np.repeat(np.arange(len(old.users)), np.diff(histories["history_offsets"]))
    seen = pl.DataFrame(
        {
            "user": users.old[owner],
            "item": items.old[histories["history_items"]],
            "time": histories["history_times"],
            "liked": histories["history_liked"] > 0,
            "new": False,
        }
    )
    # Without times an interaction's place stands for its time: new ones come behind.
    after = 0 if options.order == "time" else int(histories["history_times"].max()) + 1
    fresh = frame.with_columns(
        user=pl.Series(users.rows), item=pl.Series(items.rows), time=pl.col("time") + after, new=pl.lit(True)
    ).select(seen.columns)
    fresh = fresh.join(
        seen, on=["user", "item"] if options.repeats == "first" else list(_ORDER), how="anti", maintain_order="left"
    )
    merged = pl.concat([seen, fresh]).sort(*_ORDER, maintain_order=True)
    drawn = _drawn(fresh["user"].unique().sort())
    assigned = merged.join(drawn, on="user", how="left", maintain_order="left")
    if options.implicit:
        assigned = with_negatives(assigned, len(items.ids), options.implicit_negatives, options.seed, path)
    parts = [assigned.filter("new").select(*_ORDER, "liked", "split")]
    for name in SPLITS:
        part = old.split(name)
        told = {"user": users.old[part.users], "time": part.times, "item": items.old[part.items], "liked": part.liked}
        parts.append(pl.DataFrame(told).with_columns(split=pl.lit(name)))
    return _Data(merged, pl.concat(parts).sort(*_ORDER, maintain_order=True))


def _drawn(users: pl.Series) -> pl.DataFrame:
    """`user` and the `split` of their new interactions."""
    place = np.random.default_rng(0).permutation(len(users))
    share = len(users) // HELD_OUT
    split = np.where(place < share, SPLITS[1], np.where(place < 2 * share, SPLITS[2], SPLITS[0]))
    return pl.DataFrame({"user": users, "split": pl.Series(split.tolist(), dtype=pl.String)})


def _content(
    old: Catalog, data: _Data, sides: Mapping[str, _Side], fields: Mapping[str, tables.Tensors], progress: Progress
) -> tuple[dict[str, tables.Tensors], int]:
    """Users' and items' tables, and how many items with an interaction have no embedding."""
    progress("fold in", 0, 1)
    users, items = sides["user"], sides["item"]
    before = fold_in.Space(
        _moved(old.user_embeddings, users),
        _moved(old.item_table["embeddings"], items),
        _moved(old.item_table["fold_in"], items),
    )
    space = fold_in.placed(before, *data.likes())
    progress("fold in", 1, 1)
    histories = tables.histories(data.interactions, len(users.ids))
    placed = {name: nonzero_rows(getattr(space, name)) & ~nonzero_rows(getattr(before, name)) for name in ("users", "fold_in")}
    user, item, liked, new = (data.interactions[name].to_numpy() for name in ("user", "item", "liked", "new"))
    changed = placed["users"].copy()
    changed[user[new | (liked & placed["fold_in"][item])]] = True
    width = old.user_table["similar"].shape[1]
    similar = np.repeat(np.arange(len(users.ids), dtype=np.int32)[:, None], width, 1)
    similar[users.old] = users.old[old.user_table["similar"]]
    lists = Lists.of(old)
    if lists is not None:
        lists = Lists.around(lists.centres, lists.probes, space.users)
    similar = updated_similar_users(similar, space.users, space.fold_in, histories, changed, placed["users"], lists)
    met = np.bincount(item, minlength=len(items.ids)) > 0
    content = {
        "users.safetensors": {
            **tables.id_tensors(users.ids),
            **({"embeddings": space.users} if lists is None else lists.tensors(space.users)),
            "similar": similar,
            **histories,
            **fields["user"],
        },
        "items.safetensors": {
            **tables.id_tensors(items.ids),
            "embeddings": space.items,
            "fold_in": space.fold_in,
            **tables.ratings(data.interactions, len(items.ids)),
            **fields["item"],
        },
    }
    return content, int((met & ~nonzero_rows(space.items)).sum())


def _moved(table: NDArray[np.float16], side: _Side) -> NDArray[np.float16]:
    """The rows where they are now, zeros for new ones."""
    out = np.zeros((len(side.ids), table.shape[1]), np.float16)
    out[side.old] = table
    return out


def _info(
    old: Catalog, data: _Data, sides: Mapping[str, _Side], pieces: MorePieces, unplaced: int, repeats: int
) -> dict[str, Any]:
    info = copy.deepcopy(dict(old.info))
    info.pop("snapshots", None)  # of training prompts: the model was trained already
    info["producer"] = f"rexit {__version__}"
    counts = {"users": len(sides["user"].ids), "items": len(sides["item"].ids), "interactions": len(data.interactions)}
    info["counts"] = {**info["counts"], **counts}
    info["embedding"]["space"] = old.space
    times = data.interactions["time"].to_numpy()
    info["order"] |= {"first": int(times.min()), "last": int(times.max())}
    info["updated"] = {
        "catalog_sha256": old.sha256,
        "users": sides["user"].new,
        "items": sides["item"].new,
        "interactions": data.new,
        "repeats": repeats,
        "without_embedding": unplaced,
        "cut_texts": pieces.cut,
    }
    return info
