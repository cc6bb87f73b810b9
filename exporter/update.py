"""`rexit update`: a newer catalog for the model that was trained on an older one.

1. Tokenizer and template must be the catalog's: the tokenizer's fingerprint and the compiled template are compared with it.
2. Known users and items keep their ids and embeddings. They keep texts and vectors unless the users' or items' file has a row for
   them. New ids take their places in the order of ids.
3. New texts become pieces behind the old ones, cut to the longest text of their column, so that the limits stay.
4. Splits: see `rexit.exporter.catalog.additions`.
5. New users and items are placed among the known ones by `rexit.exporter.retriever.fold_in`; nothing is trained. Exit zero's
   graph stays.
6. Similar users are what a request would find. Only rows that can have changed are searched again. Lists of users keep their
   centres; a new user joins the nearest list.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rexit import __version__
from rexit.bundle.catalog import ZERO, Catalog
from rexit.bundle.vectors import VectorIds
from rexit.bundle.writer import new_folder
from rexit.errors import BundleError, InputError
from rexit.exporter.catalog import encoded, tables
from rexit.exporter.catalog.additions import Entities, MergedData, in_catalog_unit, merge, read_additions
from rexit.exporter.catalog.folder import check_place, seal, write
from rexit.exporter.catalog.inputs import with_codes
from rexit.exporter.catalog.interactions import read_interactions, without_repeats
from rexit.exporter.options import Columns, IndexOptions
from rexit.exporter.prompt.extend_pieces import ExtendedPieces
from rexit.exporter.prompt.language import Language
from rexit.exporter.prompt.template import read_template
from rexit.exporter.retriever import fold_in
from rexit.exporter.retriever.lists import Lists
from rexit.exporter.retriever.neighbours import nonzero_rows, updated_similar_users
from rexit.exporter.source_columns import check_columns
from rexit.progress import Progress, silent


def update_catalog(
    catalog: Path,
    interactions: Path,
    tokenizer: str,
    template: Path,
    out: Path,
    *,
    items: Path | None = None,
    users: Path | None = None,
    progress: Progress = silent,
) -> Mapping[str, Any]:
    """Writes an updated catalog folder, whole or not at all.

    Args:
        catalog: a catalog folder with its splits, written by `rexit index`; it is not changed. Columns have its names.
        interactions: those since.
        tokenizer, template: those of `catalog`.
        out: the catalog folder to write.
        items, users: a row for every new one. A row for a known one replaces its texts and vectors.
        progress: called with a stage, the steps done and the steps in all.

    Returns:
        The contents of catalog.json.

    Raises:
        InputError: files, columns, ids, times, tokenizer, template, or a place that cannot be written.
        BundleError: `catalog` cannot be read or was edited.
    """
    old = Catalog.open(Path(catalog))
    if edited := old.edited():
        raise BundleError(edited[0])
    check_place(out)
    options, parsed = _options(old), read_template(template)
    check_columns(options, parsed, interactions, items, users)
    language = Language.load(tokenizer, parsed)
    pieces = ExtendedPieces.of(old, language)
    progress("read", 0, 1)
    rows = read_interactions(interactions, options, complete=False, inputs=parsed.inputs, scores=old.reads_scores)
    rows = with_codes(rows, old.inputs.entries, language.tokenizer, interactions)
    rows = in_catalog_unit(rows, old, interactions)
    frame = without_repeats(rows, interactions)
    entities = {
        what: read_additions(old, what, frame[what], interactions, path, options.columns)
        for what, path in (("user", users), ("item", items))
    }
    fields = {
        what: pieces.fields(what, part.texts, part.text_rows, part.old_rows, len(part.ids)) for what, part in entities.items()
    }
    new_items = entities["item"]
    vectors = encoded.updated(old, new_items.texts, new_items.text_rows, new_items.old_rows, len(new_items.ids))
    data = merge(old, frame, entities, options, interactions)
    progress("read", 1, 1)
    content, unplaced = _content(old, data, entities, fields, progress)
    content["pieces.safetensors"] = pieces.tensors()
    info = _info(old, data, entities, pieces, unplaced, repeats=len(rows) - data.new)
    if (ids := VectorIds.of(info, str(template))) and ids.too_many:
        raise InputError(f"{catalog}: {ids.too_many}")
    with new_folder(out) as folder:
        progress("write", 0, 1)
        info |= encoded.write(folder, vectors)
        if old.numbers:
            shutil.copyfile(old.path / ZERO, folder / ZERO)
        write(folder, info, content.items(), data.samples, entities["user"].ids, entities["item"].ids)
        seal(folder, info)
        progress("write", 1, 1)
    return info


def _options(old: Catalog) -> IndexOptions:
    """The options that the catalog's interactions were read with."""
    columns, label = old.info.get("columns"), old.info["label"]
    if not isinstance(columns, dict) or not {"user", "item"} <= set(columns):
        raise BundleError(f"{old.path}/catalog.json: `columns` is {columns!r}, expected the names of the columns that were read")
    implicit = "sampled" in label
    sampled = {"each": label["sampled"], "seed": label["seed"]} if implicit else label.get("unrated")
    return IndexOptions(
        columns=Columns(**{name: column for name, column in columns.items() if name != "split"}),
        positive_at=None if implicit else label["positive_at"],
        implicit=implicit,
        **({"unrated": sampled["each"], "seed": sampled["seed"]} if sampled else {}),
        order=old.info["order"]["by"],
    )


def _content(
    old: Catalog, data: MergedData, entities: Mapping[str, Entities], fields: Mapping[str, tables.Tensors], progress: Progress
) -> tuple[dict[str, tables.Tensors], int]:
    """The users' and items' tables, and the number of items with an interaction and no embedding."""
    progress("fold in", 0, 1)
    users, items = entities["user"], entities["item"]
    before = fold_in.Space(
        users.moved(old.user_embeddings),
        items.moved(old.item_table["embeddings"]),
        items.moved(old.item_table["fold_in"]),
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
    similar[users.old_rows] = users.old_rows[old.user_table["similar"]]
    lists = Lists.of(old)
    if lists is not None:
        lists = Lists.around(lists.centres, lists.probes, space.users)
    similar = updated_similar_users(similar, space.users, space.fold_in, histories, changed, placed["users"], lists)
    rated = np.bincount(item, minlength=len(items.ids)) > 0
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
    return content, int((rated & ~nonzero_rows(space.items)).sum())


def _info(
    old: Catalog, data: MergedData, entities: Mapping[str, Entities], pieces: ExtendedPieces, unplaced: int, repeats: int
) -> dict[str, Any]:
    info = copy.deepcopy(dict(old.info))
    info.pop("snapshots", None)  # they serve training only
    info["producer"] = f"rexit {__version__}"
    counts = {"users": len(entities["user"].ids), "items": len(entities["item"].ids), "interactions": len(data.interactions)}
    info["counts"] = {**info["counts"], **counts}
    info["embedding"]["space"] = old.space
    times = data.interactions["time"].to_numpy()
    info["order"] |= {"first": int(times.min()), "last": int(times.max())}
    info["updated"] = {
        "catalog_sha256": old.sha256,
        "users": entities["user"].new,
        "items": entities["item"].new,
        "interactions": data.new,
        "repeats": repeats,
        "without_embedding": unplaced,
        "cut_texts": pieces.cut,
    }
    return info
