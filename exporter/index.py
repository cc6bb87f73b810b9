"""`rexit index`: from tables, a tokenizer and a template to a catalog. docs/format.md says what it holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from rexit import __version__
from rexit.bundle.catalog import LISTS, SPLITS
from rexit.bundle.files import SCHEMA, FileEntry
from rexit.bundle.vectors import VectorIds, required
from rexit.bundle.writer import new_folder
from rexit.errors import InputError
from rexit.exporter.catalog import encoded, external, lightgcn, tables
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
from rexit.exporter.catalog.neighbours import similar_users
from rexit.exporter.catalog.snapshots import train_snapshots
from rexit.exporter.catalog.splits import assign
from rexit.exporter.catalog.unrated import with_unrated
from rexit.exporter.options import ExternalOptions, IndexOptions
from rexit.exporter.prompt.language import Language, Worded, worded
from rexit.exporter.prompt.lengths import prompt_lengths
from rexit.exporter.prompt.pieces import fingerprint
from rexit.progress import Progress, silent
from rexit.times import Timeline

SNAPSHOTS = "snapshots.safetensors"


def build_catalog(
    interactions: Path,
    items: Path,
    tokenizer: str,
    template: Path,
    out: Path,
    options: IndexOptions | None = None,
    *,
    users: Path | None = None,
    progress: Progress = silent,
) -> Mapping[str, Any]:
    """Writes the catalog folder `out`, whole or not at all, and returns what its catalog.json says.

    1. What is wrong with options, place, template and tokenizer is said before any work.
    2. Interactions get their splits, users and items their rows.
    3. The template becomes a program, its texts and the data's become pieces.
    4. The retriever is trained on the training likes, and once more on each earlier part of them, for training prompts; similar
       users are found as prompts find them.
    5. Tables, splits and what catalog.json says of them are written.

    A catalog at `out` is replaced; any other non-empty folder is refused.
    Raises InputError: options, columns, ids, splits, template, tokenizer, a place that cannot be written.
    """
    options = options or IndexOptions()
    options.check()
    check_place(out)
    language = Language.load(tokenizer, template)
    progress("tables", 0, 1)
    data = _read(interactions, items, users, options)
    given = _read_embeddings(data, options, interactions, items)
    similar = None
    if options.similar is not None:
        similar = external.read_neighbours(options.similar, data.users["id"], options.neighbours, options.columns.user)
    progress("tables", 1, 1)
    words = worded(language, data.users, data.items, progress)
    info = _info(data, language, words, options)
    if (ids := VectorIds.of(info, str(template))) and ids.too_many:
        raise InputError(f"{template}: {ids.too_many}")
    likes = _likes(data)
    if given is None:
        retriever = lightgcn.train(likes, options.lightgcn, progress)
        earlier = _snapshots(data, likes, retriever.epochs, options, progress)
        info |= _trained(likes, retriever, options)
    else:
        retriever = external.retriever(given.items, given.users, likes, given.options)
        earlier = external.training_table(retriever, given.begin)
        info |= _external(data, retriever, given)
    progress("lists of users", 0, 1)
    lists = Lists.needed(retriever.users.astype(np.float16))
    progress("lists of users", 1, 1)
    if lists is not None:
        info["requires"].append(LISTS)
        info["embedding"]["probes"] = lists.probes
    with new_folder(out) as folder:
        tables.write(folder / SNAPSHOTS, earlier)
        del earlier, likes
        info["snapshots"] = {"path": SNAPSHOTS, **FileEntry.of(folder / SNAPSHOTS).to_json()}
        info |= encoded.write(folder, words.encoded)
        content = _content(data, words, retriever, lists, similar, options, progress)
        catalog = write(folder, info, content, data.asked, data.users["id"], data.items["id"], progress)
        info["prompt"]["lengths"] = prompt_lengths(catalog)
        seal(folder, info)
    return info


@dataclass(frozen=True)
class _Data:
    """The user's tables in rows; `users` and `items` ascending by id.

    `interactions`: user, item, time, liked, split, sorted by (user, time, item). `asked` are those and what was sampled beside
    them: what the splits hold. `split` says how they were made, for catalog.json. `dropped`: rows that repeated another one.
    """

    interactions: pl.DataFrame
    asked: pl.DataFrame
    users: pl.DataFrame
    items: pl.DataFrame
    split: Mapping[str, Any]
    timeline: Timeline
    dropped: int


def _read(interactions: Path, items: Path, users: Path | None, options: IndexOptions) -> _Data:
    rows, columns = read_interactions(interactions, options), options.columns
    unit = unit_of_times(rows["time"]) if options.order == "time" else None
    rows = rows.with_columns(counted(rows["time"], unit, interactions))
    frame = without_repeats(rows, options.repeats, interactions)
    dropped = len(rows) - len(frame)
    item_frame = read_entities(items, columns.item, "--item-column")
    if users is None:
        user_frame = pl.DataFrame({"id": frame["user"].unique()})
    else:
        user_frame = read_entities(users, columns.user, "--user-column")
    sides = {}
    for what, entities, path in (("user", user_frame, users or interactions), ("item", item_frame, items)):
        used, known = unify_ids([frame[what], entities["id"]])
        sides[what] = entities.with_columns(id=known).sort("id")
        frame = frame.with_columns(rows_of(used, sides[what]["id"], what, interactions, path).alias(what))
    if options.unrated:
        ids = sides["user"]["id"], sides["item"]["id"]
        frame = with_unrated(frame, *ids, options.unrated, options.seed, interactions)
    assigned, split = assign(frame, options, interactions)
    asked = assigned
    if options.implicit:
        asked = with_negatives(assigned, len(item_frame), options.implicit_negatives, options.seed, interactions)
    times = frame["time"].to_numpy()
    timeline = Timeline(options.order, unit, int(times.min()), int(times.max()))
    return _Data(assigned, asked, sides["user"], sides["item"], split, timeline, dropped)


def _likes(data: _Data) -> lightgcn.Likes:
    def edges(split: str, liked: bool = True) -> lightgcn.Edges:
        part = data.interactions.filter((pl.col("split") == split) & (pl.col("liked") | (not liked)))
        return part["user"].to_numpy(), part["item"].to_numpy()

    train, validation, _ = SPLITS
    liked = edges(train)
    return lightgcn.Likes(
        graph=liked,
        known=liked,
        seen=edges(train, liked=False),
        wanted=edges(validation),
        users=len(data.users),
        items=len(data.items),
    )


def _snapshots(data: _Data, likes: lightgcn.Likes, epochs: int, options: IndexOptions, progress: Progress) -> tables.Tensors:
    train = data.interactions.filter(pl.col("split") == SPLITS[0])

    def told(done: int, total: int) -> None:
        progress("LightGCN of earlier moments", done, total)

    return train_snapshots(train, likes, options.snapshots, epochs, options.lightgcn, told)


@dataclass(frozen=True)
class _Given:
    """Embeddings from elsewhere, by the catalog's rows. begin: the time from which training prompts see them; the first of all
    where nobody says what they know."""

    options: ExternalOptions
    items: external.Matrix
    users: external.Matrix | None
    begin: int


def _read_embeddings(data: _Data, options: IndexOptions, interactions: Path, items: Path) -> _Given | None:
    chosen = options.external
    if chosen is None:
        return None
    begin = int(np.iinfo(np.int64).min)
    if chosen.as_of is not None:
        begin = data.timeline.parse(chosen.as_of, "--embeddings-as-of")
    of_items = external.read_embeddings(chosen.items, options.columns.item)
    item_rows = external.aligned(of_items, data.items["id"], "item", items)
    if chosen.users is None:
        return _Given(chosen, item_rows, None, begin)
    of_users = external.read_embeddings(chosen.users, options.columns.user)
    widths = [file.rows.shape[1] for file in (of_items, of_users)]
    if widths[0] != widths[1]:
        raise InputError(
            f"{of_users.path}: embeddings of {widths[1]} numbers, those of {of_items.path} have {widths[0]}: expected one width"
        )
    return _Given(chosen, item_rows, external.aligned(of_users, data.users["id"], "user", interactions), begin)


def _external(data: _Data, retriever: lightgcn.Retriever, given: _Given) -> dict[str, Any]:
    """What catalog.json says of embeddings from elsewhere. `known_answers`: interactions to be predicted that happened before the
    moment up to which the embeddings know everything."""
    known = data.interactions.filter((pl.col("split") != SPLITS[0]) & (pl.col("time") < given.begin))
    as_of = {} if given.options.as_of is None else {"as_of": given.begin, "known_answers": len(known)}
    return {
        "embedding": {
            "dim": retriever.items.shape[1],
            "similarity": given.options.similarity,
            "fold_in": given.options.fold_in,
            "users": "folded in" if given.users is None else "given",
            "without_embedding": {
                "users": int((~retriever.users.any(1)).sum()),
                "items": int((~retriever.items.any(1)).sum()),
            },
            **as_of,
        },
        "retrieval": {
            "recall@20": retriever.recall,
            "popularity_recall@20": retriever.popularity_recall,
            "split": "validation",
        },
    }


def _content(
    data: _Data,
    words: Worded,
    retriever: lightgcn.Retriever,
    lists: Lists | None,
    similar: NDArray[np.int32] | None,
    options: IndexOptions,
    progress: Progress,
) -> Iterator[tuple[str, tables.Tensors]]:
    """The files of a catalog and what they hold, one after the other: a whole one can take gigabytes."""
    users, fold_in = retriever.users.astype(np.float16), retriever.fold_in.astype(np.float16)
    histories = tables.histories(data.interactions, len(data.users))
    if similar is None:
        queries = users if options.external is not None and options.external.users is not None else None
        similar = similar_users(users, fold_in, histories, options.neighbours, lists, progress, queries)
    yield (
        "users.safetensors",
        {
            **tables.id_tensors(data.users["id"]),
            **({"embeddings": users} if lists is None else lists.tensors(users)),
            "similar": similar,
            **histories,
            **tables.field_tensors(words.fields, "user"),
        },
    )
    del users, histories
    yield (
        "items.safetensors",
        {
            **tables.id_tensors(data.items["id"]),
            "embeddings": retriever.items.astype(np.float16),
            "fold_in": fold_in,
            **tables.ratings(data.interactions, len(data.items)),
            **tables.field_tensors(words.fields, "item"),
        },
    )
    yield "pieces.safetensors", words.pieces


def _info(data: _Data, language: Language, words: Worded, options: IndexOptions) -> dict[str, Any]:
    label: dict[str, Any] = {"column": options.columns.rating, "positive_at": options.least_like}
    if options.unrated:
        label["unrated"] = {"each": options.unrated, "seed": options.seed}
    order = data.timeline.to_json()
    if options.order == "time":
        order["column"] = options.columns.time
    elif options.order == "random":
        order["seed"] = options.seed
    return {
        "schema": SCHEMA,
        "requires": required(words.prompt),
        "producer": f"rexit {__version__}",
        "ids": {
            what: "int64" if frame["id"].dtype == pl.Int64 else "string"
            for what, frame in (("user", data.users), ("item", data.items))
        },
        "counts": {"users": len(data.users), "items": len(data.items), "interactions": len(data.interactions)},
        "label": {"sampled": options.implicit_negatives, "seed": options.seed} if options.implicit else label,
        "repeats": {"by": options.repeats, "dropped": data.dropped},
        "order": order,
        "split": data.split,
        "tokenizer": {"vocab_size": language.tokenizer.get_vocab_size(), "sha256": fingerprint(language.tokenizer)},
        "labels": language.labels,
        "embedding": {"dim": options.lightgcn.dim, "layers": options.lightgcn.layers},
        "prompt": words.prompt,
    }


def _trained(likes: lightgcn.Likes, retriever: lightgcn.Retriever, options: IndexOptions) -> dict[str, Any]:
    return {
        "lightgcn": {"likes": len(likes.graph[0]), **asdict(options.lightgcn), "snapshots": options.snapshots},
        "retrieval": {
            "recall@20": retriever.recall,
            "popularity_recall@20": retriever.popularity_recall,
            "split": "validation",
            "epochs": retriever.epochs,
        },
    }
