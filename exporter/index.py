"""`rexit index`: from tables, a tokenizer and a template to a catalog. docs/format.md says what it holds.

A catalog made from another one (`rexit index --from`) is for the model that was trained on the other.

1. Tokenizer and template must be the catalog's: the tokenizer's fingerprint and the compiled template are compared with it.
2. Known users and items keep their ids and embeddings. They keep texts and vectors unless the users' or items' file has a row for
   them. New ids take their places in the order of ids.
3. New texts become pieces behind the old ones, cut to the longest text of their column, so that the limits stay.
4. Splits: see `rexit.exporter.catalog.additions`.
5. New users and items are placed among the known ones by `rexit.exporter.retriever.fold_in`; nothing is trained. Exit zero's
   graph stays, and lists of users keep their centres; a new user joins the nearest list.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from rexit import __version__
from rexit.errors import BundleError, InputError
from rexit.exporter.catalog import catalog_files
from rexit.exporter.catalog.additions import Entities, MergedData, in_catalog_unit, merge, read_additions
from rexit.exporter.catalog.catalog_files import check_place, seal, write_splits, write_tables
from rexit.exporter.catalog.input_columns import with_codes
from rexit.exporter.catalog.interactions import read_interactions, without_repeats
from rexit.exporter.catalog.source_tables import Vectors, extended_vectors
from rexit.exporter.options import Columns, ExternalOptions, IndexOptions
from rexit.exporter.prompt.language import Compiled, ExtendedPieces, Language, compile_template
from rexit.exporter.prompt.pieces import fingerprint
from rexit.exporter.prompt.template import Template, read_template
from rexit.exporter.retrieved import retrieved
from rexit.exporter.retriever import external, fold_in
from rexit.exporter.retriever.external import Matrix, aligned, read_embeddings
from rexit.exporter.retriever.neighbours import Lists, nonzero_rows, similar_users
from rexit.exporter.source_data import Data, check_columns, read_data
from rexit.exporter.zero import Graph, write_zero
from rexit.format.bundle.catalog import SPLITS, VECTOR, ZERO, Catalog
from rexit.format.bundle.files import SCHEMA, FileEntry, to_json
from rexit.format.bundle.writer import new_folder
from rexit.format.roles import RULE
from rexit.progress import Progress, silent

if TYPE_CHECKING:
    from rexit.exporter.retriever.lightgcn import Likes, Retriever

SNAPSHOTS = "snapshots.safetensors"


def build_catalog(
    interactions: Path,
    items: Path | None,
    tokenizer: str,
    template: Path,
    out: Path,
    options: IndexOptions | None = None,
    *,
    users: Path | None = None,
    old: Path | None = None,
    progress: Progress = silent,
) -> Mapping[str, Any]:
    """Writes a catalog folder atomically.

    1. Check options, place, template, every column and the tokenizer, before torch is imported.
    2. Assign interactions to splits, users and items to rows.
    3. Compile the template to a program, and its texts and the data's to pieces.
    4. Train the retriever on each earlier part of the training likes, for training prompts, which chooses the epochs, then on all
       of them; or take external embeddings. Find similar users as prompts find them.
    5. Write tables, splits and catalog.json; before it exit zero's graph, unless the template wants none.

    Args:
        interactions, items, users: CSV, TSV or Parquet. users: needed if prompts place their columns. items: None: there is `old`
            and no item is new. With `old`, the interactions since, and a row for every new user or item, or for changed ones.
        tokenizer: a tokenizer.json, a folder with one, or a name on the Hugging Face Hub.
        template: the prompt template, TOML.
        out: the catalog folder. A catalog there is replaced; any other non-empty folder is refused.
        options: None: the defaults, or those of `old`, which excludes others.
        old: the catalog to start from, with its splits; it is not changed.
        progress: called with a stage, the steps done and the steps in all.

    Returns:
        The contents of catalog.json.

    Raises:
        InputError: options, columns, ids, splits, template, tokenizer, or a place that cannot be written or that another process
            is writing.
        BundleError: `old` cannot be read or was edited.
    """
    check_place(out)
    parsed = read_template(template)
    files = _Files(interactions, items, users)
    with new_folder(out) as folder:
        if old is not None:
            if options is not None:
                raise InputError(f"{old}: has options of its own, which a catalog made from it keeps: leave out all others")
            return _extended(folder, _opened(Path(old)), files, tokenizer, parsed, progress)
        if items is None:
            raise InputError("no items file, which only a catalog made from another one may lack")
        return _built(folder, files, tokenizer, parsed, options or IndexOptions(), progress)


@dataclass(frozen=True)
class _Files:
    """The user's files. items, users: None: there is none."""

    interactions: Path
    items: Path | None
    users: Path | None


@dataclass(frozen=True)
class _Tables:
    """What the catalog's tables are made of.

    ids: of `user` and `item`, by row. interactions: sorted by (user, time, item). fields: the `field.NAME` tensors of each
    table. pieces: of pieces.safetensors. vectors: the columns of item vectors that exit zero can read. space: embeddings.
    lists: of users, if searches scan lists. neighbours: similar users of a user. own: whether users are searched for by their own
    rows.
    """

    ids: Mapping[str, pl.Series]
    interactions: pl.DataFrame
    fields: Mapping[str, catalog_files.Tensors]
    pieces: catalog_files.Tensors
    vectors: Vectors
    space: fold_in.Space
    lists: Lists | None
    neighbours: int
    own: bool = False

    def content(self, progress: Progress) -> Iterator[tuple[str, catalog_files.Tensors]]:
        """Yields each file of the catalog with its tensors, in turn: together they can take gigabytes."""
        yield "users.safetensors", self._users(progress)
        yield (
            "items.safetensors",
            {
                **catalog_files.id_tensors(self.ids["item"]),
                "embeddings": self.space.items,
                "fold_in": self.space.fold_in,
                **catalog_files.ratings(self.interactions, len(self.ids["item"])),
                **self.fields["item"],
                **{VECTOR + name: rows for name, rows in self.vectors.items()},
            },
        )
        yield "pieces.safetensors", self.pieces

    def _users(self, progress: Progress) -> catalog_files.Tensors:
        users, histories = self.space.users, catalog_files.histories(self.interactions, len(self.ids["user"]))
        similar = similar_users(users, self.space.fold_in, histories, self.neighbours, self.lists, progress, self.own)
        return {
            **catalog_files.id_tensors(self.ids["user"]),
            **({"embeddings": users} if self.lists is None else self.lists.tensors(users)),
            "similar": similar,
            **histories,
            **self.fields["user"],
        }


def _built(
    folder: Path, files: _Files, tokenizer: str, template: Template, options: IndexOptions, progress: Progress
) -> dict[str, Any]:
    """Writes a new catalog. Returns catalog.json."""
    options.check()
    if options.zero is not None and template.zero == ():
        raise InputError(f"{options.zero}: {template.path} has no exit zero to read it")
    check_columns(options, template, files.interactions, files.items, files.users)
    catalog, info = _with_tables(folder, files, Language.load(tokenizer, template), options, progress)
    if catalog.numbers:
        read, info["zero"] = write_zero(folder, catalog, options.zero, progress, choose=template.zero is None)
        info["prompt"]["numbers"] = read
        if not read:
            del info["prompt"]["numbers"]
    seal(folder, info)
    return info


def _with_tables(
    folder: Path, files: _Files, language: Language, options: IndexOptions, progress: Progress
) -> tuple[Catalog, dict[str, Any]]:
    """Writes a new catalog's tables and splits. Returns it before `seal`, and catalog.json so far."""
    assert files.items is not None
    progress("tables", 0, 1)
    template = language.template
    data = read_data(
        files.interactions,
        files.items,
        files.users,
        options,
        template.inputs,
        language.tokenizer,
        template.score_names,
    )
    embeddings = _read_embeddings(data, options, files.interactions, files.items)
    progress("tables", 1, 1)
    compiled = compile_template(language, data.users, data.items, data.inputs, progress)
    if options.zero is not None:
        Graph(options.zero, len(compiled.prompt["numbers"]))
    info = _info(data, language, compiled, options)
    retriever, about = _trained(folder, data, embeddings, options, progress)
    info |= about
    half = (table.astype(np.float16, copy=False) for table in (retriever.users, retriever.items, retriever.fold_in))
    space = fold_in.placed_by_vectors(fold_in.Space(*half), [*compiled.vectors.values()])
    del retriever, embeddings  # float32 copies
    lists = Lists.needed(space.users, progress)
    if lists is not None:
        info["embedding"]["probes"] = lists.probes
    parts = _Tables(
        {"user": data.users["id"], "item": data.items["id"]},
        data.interactions,
        {what: catalog_files.field_tensors(compiled.fields, what) for what in ("user", "item")},
        compiled.pieces,
        compiled.vectors,
        space,
        lists,
        options.neighbours,
        own=options.external is not None and options.external.users is not None,
    )
    catalog = write_tables(folder, info, parts.content(progress))
    samples = data.samples
    if options.slates.retrieved:
        training_parts = options.lightgcn.snapshots
        samples, recalls = retrieved(catalog, samples, options.slates.count, training_parts, files.interactions, progress)
        info["candidates"]["recall"] = recalls
    write_splits(folder, info, samples, parts.ids["user"], parts.ids["item"], progress)
    return catalog, info


def _trained(
    folder: Path, data: Data, embeddings: _Embeddings | None, options: IndexOptions, progress: Progress
) -> tuple[Retriever, dict[str, Any]]:
    """Makes the retriever and writes its snapshots. Returns it, and what catalog.json says of it."""
    # Here torch is needed, which takes seconds to import.
    from rexit.exporter.retriever import lightgcn
    from rexit.exporter.retriever.snapshots import train_snapshots

    likes = _likes(data)
    info: dict[str, Any] = {}
    if embeddings is None:
        train = data.interactions.filter(pl.col("split") == SPLITS[0])
        snapshots, epochs = train_snapshots(train, likes, options.lightgcn, progress)
        catalog_files.write_tensors(folder / SNAPSHOTS, snapshots)
        retriever = lightgcn.train(likes, options.lightgcn, progress, epochs)
        info["lightgcn"] = {"likes": len(likes.graph[0]), **asdict(options.lightgcn)}
    else:
        retriever = external.retriever(embeddings.items, embeddings.users, likes)
        catalog_files.write_tensors(folder / SNAPSHOTS, external.training_table(retriever, embeddings.begin))
        info["embedding"] = _external_info(data, retriever, embeddings)
    info["retrieval"] = {
        "recall@20": retriever.recall,
        "popularity_recall@20": retriever.popularity_recall,
        "split": SPLITS[1],
        **({"epochs": retriever.epochs} if embeddings is None else {}),
    }
    return retriever, info | {"snapshots": {"path": SNAPSHOTS, **FileEntry.of(folder / SNAPSHOTS).to_json()}}


def _likes(data: Data) -> Likes:
    from rexit.exporter.retriever.lightgcn import Likes

    train, validation, _ = SPLITS
    liked = data.edges(train)
    return Likes(
        graph=liked,
        history=liked,
        excluded=data.edges(train, likes_only=False),
        targets=data.edges(validation),
        weights=data.weights,
        users=len(data.users),
        items=len(data.items),
    )


@dataclass(frozen=True)
class _Embeddings:
    """External embeddings, by the catalog's rows. begin: the time from which training prompts see them; the smallest int64
    without --embeddings-as-of."""

    options: ExternalOptions
    items: Matrix
    users: Matrix | None
    begin: int


def _read_embeddings(data: Data, options: IndexOptions, interactions: Path, items: Path) -> _Embeddings | None:
    chosen = options.external
    if chosen is None:
        return None
    begin = int(np.iinfo(np.int64).min)
    if chosen.as_of is not None:
        begin = data.timeline.parse(chosen.as_of, "--embeddings-as-of")
    of_items = read_embeddings(chosen.items, options.columns.item)
    item_rows = aligned(of_items, data.items["id"], "item", items)
    if chosen.users is None:
        return _Embeddings(chosen, item_rows, None, begin)
    of_users = read_embeddings(chosen.users, options.columns.user)
    widths = [file.rows.shape[1] for file in (of_items, of_users)]
    if widths[0] != widths[1]:
        raise InputError(
            f"{of_users.path}: embeddings of {widths[1]} numbers, those of {of_items.path} have {widths[0]}: expected one width"
        )
    return _Embeddings(chosen, item_rows, aligned(of_users, data.users["id"], "user", interactions), begin)


def _external_info(data: Data, retriever: Retriever, embeddings: _Embeddings) -> dict[str, Any]:
    """`embedding` of catalog.json. `known_answers`: interactions to predict that are earlier than
    --embeddings-as-of."""
    known = data.interactions.filter((pl.col("split") != SPLITS[0]) & (pl.col("time") < embeddings.begin))
    as_of = {} if embeddings.options.as_of is None else {"as_of": embeddings.begin, "known_answers": len(known)}
    return {
        "dim": retriever.items.shape[1],
        "users": "folded in" if embeddings.users is None else "given",
        "without_embedding": {
            "users": int((~retriever.users.any(1)).sum()),
            "items": int((~retriever.items.any(1)).sum()),
        },
        **as_of,
    }


def _info(data: Data, language: Language, compiled: Compiled, options: IndexOptions) -> dict[str, Any]:
    label = {"implicit": True} if options.implicit else {"positive_at": options.least_like}
    order = to_json(data.timeline) | ({"seed": options.seed} if options.order == "random" else {})
    return {
        "schema": SCHEMA,
        "producer": f"rexit {__version__}",
        "ids": {
            what: "int64" if frame["id"].dtype == pl.Int64 else "string"
            for what, frame in (("user", data.users), ("item", data.items))
        },
        "counts": {
            "users": len(data.users),
            "items": len(data.items),
            "interactions": len(data.interactions),
            "likes": int(data.interactions["liked"].sum()),
        },
        "columns": options.read_columns,
        "label": label,
        "candidates": {**asdict(options.slates), **({"seed": options.seed} if options.slates.drawn else {})},
        "repeats": {"dropped": data.dropped},
        "order": order,
        "split": data.split,
        "roles": RULE,
        "tokenizer": {"vocab_size": language.tokenizer.get_vocab_size(), "sha256": fingerprint(language.tokenizer)},
        "labels": dict(language.labels),
        "embedding": {"dim": options.lightgcn.dim, "layers": options.lightgcn.layers},
        "prompt": compiled.prompt,
    }


def _opened(path: Path) -> Catalog:
    old = Catalog.open(path)
    if edited := old.edited():
        raise BundleError(edited[0])
    return old


def _extended(
    folder: Path, old: Catalog, files: _Files, tokenizer: str, template: Template, progress: Progress
) -> dict[str, Any]:
    """Writes a catalog made from another one. Returns catalog.json."""
    options = _options(old)
    check_columns(options, template, files.interactions, files.items, files.users)
    language = Language.load(tokenizer, template)
    pieces = ExtendedPieces.of(old, language)
    progress("tables", 0, 1)
    rows = read_interactions(files.interactions, options, complete=False, inputs=template.inputs, scores=old.score_names)
    rows = with_codes(rows, old.inputs.entries, language.tokenizer, files.interactions)
    frame = without_repeats(in_catalog_unit(rows, old, files.interactions), files.interactions)
    entities = {
        what: read_additions(old, what, frame[what], files.interactions, getattr(files, f"{what}s"), options.columns)
        for what in ("user", "item")
    }
    fields = {
        what: pieces.fields(what, part.texts, part.text_rows, part.old_rows, len(part.ids)) for what, part in entities.items()
    }
    items = entities["item"]
    # Also those that exit zero left out: they place new items.
    read = {name.removeprefix(VECTOR): rows for name, rows in old.item_table.items() if name.startswith(VECTOR)}
    vectors = extended_vectors(read, items.texts, items.text_rows, items.old_rows, len(items.ids))
    data = merge(old, frame, entities, options, files.interactions)
    progress("tables", 1, 1)
    progress("fold in", 0, 1)
    space = fold_in.placed(_moved_space(old, entities), *data.likes())
    space = fold_in.placed_by_vectors(space, [*vectors.values()])
    lists = Lists.of(old)
    if lists is not None:
        lists = Lists.around(lists.centres, lists.probes, space.users)
    progress("fold in", 1, 1)
    rated = np.bincount(data.interactions["item"].to_numpy(), minlength=len(items.ids)) > 0
    unplaced = int((rated & ~nonzero_rows(space.items)).sum())
    ids = {what: part.ids for what, part in entities.items()}
    neighbours = int(old.user_table["similar"].shape[1])
    own_rows = old.info["embedding"].get("users") == "given"
    parts = _Tables(ids, data.interactions, fields, pieces.tensors(), vectors, space, lists, neighbours, own_rows)
    info = _extended_info(old, data, entities, pieces, unplaced, repeats=len(rows) - data.new)
    if old.numbers:
        shutil.copyfile(old.path / ZERO, folder / ZERO)
    catalog = write_tables(folder, info, parts.content(progress))
    fresh = data.fresh
    if options.slates.retrieved:
        fresh, _ = retrieved(catalog, fresh, options.slates.count, 0, files.interactions, progress)
    write_splits(folder, info, data.samples(fresh), ids["user"], ids["item"], progress)
    seal(folder, info)
    return info


def _moved_space(old: Catalog, entities: Mapping[str, Entities]) -> fold_in.Space:
    """The embeddings of a catalog in the new rows."""
    users, items = entities["user"], entities["item"]
    return fold_in.Space(
        users.moved(old.user_embeddings),
        items.moved(old.item_table["embeddings"]),
        items.moved(old.item_table["fold_in"]),
    )


def _options(old: Catalog) -> IndexOptions:
    """The options that the catalog's interactions were read with."""
    columns, label = old.info.get("columns"), old.info["label"]
    if not isinstance(columns, dict) or not {"user", "item"} <= set(columns):
        raise BundleError(f"{old.path}/catalog.json: `columns` is {columns!r}, expected the names of the columns that were read")
    implicit = "implicit" in label
    return IndexOptions(
        columns=Columns(**{name: column for name, column in columns.items() if name not in ("split", "weight")}),
        positive_at=None if implicit else label["positive_at"],
        implicit=implicit,
        candidates=old.candidates,
        seed=old.info.get("candidates", {}).get("seed", 0),
        order=old.info["order"]["by"],
    )


def _extended_info(
    old: Catalog, data: MergedData, entities: Mapping[str, Entities], pieces: ExtendedPieces, unplaced: int, repeats: int
) -> dict[str, Any]:
    info = copy.deepcopy(dict(old.info))
    info.pop("snapshots", None)  # they serve training only
    info["producer"] = f"rexit {__version__}"
    counts = {"users": len(entities["user"].ids), "items": len(entities["item"].ids), "interactions": len(data.interactions)}
    counts["likes"] = int(data.interactions["liked"].sum())
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
