"""`rexit index`: from tables, a tokenizer and a template to a catalog. docs/format.md says what it holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from rexit import __version__
from rexit.bundle.catalog import SPLITS
from rexit.bundle.files import SCHEMA, FileEntry
from rexit.bundle.typed import to_json
from rexit.bundle.vectors import VectorIds
from rexit.bundle.writer import new_folder
from rexit.errors import InputError
from rexit.exporter.catalog import encoded, tables
from rexit.exporter.catalog.data import Data, read_data
from rexit.exporter.catalog.folder import check_place, seal, write
from rexit.exporter.options import ExternalOptions, IndexOptions
from rexit.exporter.prompt.language import Compiled, Language, compile_template
from rexit.exporter.prompt.pieces import fingerprint
from rexit.exporter.prompt.template import read_template
from rexit.exporter.retriever import external
from rexit.exporter.retriever.embedding_files import Matrix, aligned, read_embeddings
from rexit.exporter.retriever.lists import Lists
from rexit.exporter.retriever.neighbours import similar_users
from rexit.exporter.source_columns import check_columns
from rexit.exporter.zero.fit import write_zero
from rexit.exporter.zero.graph import Graph
from rexit.progress import Progress, silent
from rexit.roles import RULE

if TYPE_CHECKING:
    from rexit.exporter.retriever.lightgcn import Likes, Retriever

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
    """Writes a catalog folder, whole or not at all.

    1. Check options, place, template, every column and the tokenizer, before torch is imported.
    2. Assign interactions to splits, users and items to rows.
    3. Compile the template to a program, and its texts and the data's to pieces.
    4. Train the retriever on each earlier part of the training likes, for training prompts, which chooses the epochs, then on all
       of them; or take embeddings from elsewhere. Find similar users as prompts find them.
    5. Write tables, splits and catalog.json; before it exit zero's graph, unless the template wants none.

    Args:
        interactions, items, users: CSV, TSV or Parquet. users: needed if prompts place their columns.
        tokenizer: a tokenizer.json, a folder with one, or a name on the Hugging Face Hub.
        template: the prompt template, TOML.
        out: the catalog folder. A catalog there is replaced; any other non-empty folder is refused.
        options: None: the defaults.
        progress: called with a stage, the steps done and the steps in all.

    Returns:
        The contents of catalog.json.

    Raises:
        InputError: options, columns, ids, splits, template, tokenizer, or a place that cannot be written.
    """
    options = options or IndexOptions()
    options.check()
    check_place(out)
    parsed = read_template(template)
    if options.zero is not None:
        if not parsed.zero:
            raise InputError(f"{options.zero}: {template} has no exit zero to read it")
        Graph(options.zero, len(parsed.zero))
    check_columns(options, parsed, interactions, items, users)
    language = Language.load(tokenizer, parsed)
    progress("tables", 0, 1)
    data = read_data(interactions, items, users, options, parsed.inputs, language.tokenizer, parsed.reads_scores)
    embeddings = _read_embeddings(data, options, interactions, items)
    progress("tables", 1, 1)
    compiled = compile_template(language, data.users, data.items, data.inputs, progress)
    info = _info(data, language, compiled, options)
    if (ids := VectorIds.of(info, str(template))) and ids.too_many:
        raise InputError(f"{template}: {ids.too_many}")
    # From here on torch is needed, which takes seconds to import.
    from rexit.exporter.retriever import lightgcn
    from rexit.exporter.retriever.snapshots import train_snapshots

    likes = _likes(data)
    if embeddings is None:
        train = data.interactions.filter(pl.col("split") == SPLITS[0])
        snapshots, epochs = train_snapshots(train, likes, options.lightgcn, progress)
        del train
        retriever = lightgcn.train(likes, options.lightgcn, progress, epochs)
        info["lightgcn"] = {"likes": len(likes.graph[0]), **asdict(options.lightgcn)}
    else:
        retriever = external.retriever(embeddings.items, embeddings.users, likes)
        snapshots = external.training_table(retriever, embeddings.begin)
        info["embedding"] = _external_info(data, retriever, embeddings)
        del embeddings
    info["retrieval"] = {
        "recall@20": retriever.recall,
        "popularity_recall@20": retriever.popularity_recall,
        "split": SPLITS[1],
        **({"epochs": retriever.epochs} if options.external is None else {}),
    }
    lists = Lists.needed(retriever.users.astype(np.float16, copy=False), progress)
    if lists is not None:
        info["embedding"]["probes"] = lists.probes
    with new_folder(out) as folder:
        tables.write(folder / SNAPSHOTS, snapshots)
        del snapshots, likes
        info["snapshots"] = {"path": SNAPSHOTS, **FileEntry.of(folder / SNAPSHOTS).to_json()}
        info |= encoded.write(folder, compiled.encoded)
        content = _content(data, compiled, retriever, lists, options, progress)
        del retriever, lists
        catalog = write(folder, info, content, data.samples, data.users["id"], data.items["id"], progress)
        del content, data, compiled
        if catalog.numbers:
            info["zero"] = write_zero(folder, catalog, options.zero, progress)
            if "none" in info["zero"]:
                del info["prompt"]["numbers"]
        seal(folder, info)
    return info


def _likes(data: Data) -> Likes:
    from rexit.exporter.retriever.lightgcn import Likes

    train, validation, _ = SPLITS
    liked = data.edges(train)
    return Likes(
        graph=liked,
        history=liked,
        excluded=data.edges(train, likes_only=False),
        targets=data.edges(validation),
        users=len(data.users),
        items=len(data.items),
    )


@dataclass(frozen=True)
class _Embeddings:
    """Embeddings from elsewhere, by the catalog's rows. begin: the time from which training prompts see them; the smallest int64
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


def _content(
    data: Data,
    compiled: Compiled,
    retriever: Retriever,
    lists: Lists | None,
    options: IndexOptions,
    progress: Progress,
) -> Iterator[tuple[str, tables.Tensors]]:
    """Yields each file of the catalog with its tensors, in turn: together they can take gigabytes."""
    users, fold_in = (table.astype(np.float16, copy=False) for table in (retriever.users, retriever.fold_in))
    items = retriever.items.astype(np.float16, copy=False)
    del retriever
    histories = tables.histories(data.interactions, len(data.users))
    queries = users if options.external is not None and options.external.users is not None else None
    similar = similar_users(users, fold_in, histories, options.neighbours, lists, progress, queries)
    in_order = {"embeddings": users} if lists is None else lists.tensors(users)
    del users
    yield (
        "users.safetensors",
        {
            **tables.id_tensors(data.users["id"]),
            **in_order,
            "similar": similar,
            **histories,
            **tables.field_tensors(compiled.fields, "user"),
        },
    )
    del in_order, similar, histories
    yield (
        "items.safetensors",
        {
            **tables.id_tensors(data.items["id"]),
            "embeddings": items,
            "fold_in": fold_in,
            **tables.ratings(data.interactions, len(data.items)),
            **tables.field_tensors(compiled.fields, "item"),
        },
    )
    yield "pieces.safetensors", compiled.pieces


def _info(data: Data, language: Language, compiled: Compiled, options: IndexOptions) -> dict[str, Any]:
    label: dict[str, Any] = {"positive_at": options.least_like}
    if options.implicit:
        label = {"sampled": options.sampled, "seed": options.seed}
    elif options.sampled:
        label["unrated"] = {"each": options.sampled, "seed": options.seed}
    order = to_json(data.timeline) | ({"seed": options.seed} if options.order == "random" else {})
    return {
        "schema": SCHEMA,
        "producer": f"rexit {__version__}",
        "ids": {
            what: "int64" if frame["id"].dtype == pl.Int64 else "string"
            for what, frame in (("user", data.users), ("item", data.items))
        },
        "counts": {"users": len(data.users), "items": len(data.items), "interactions": len(data.interactions)},
        "columns": options.read_columns,
        "label": label,
        "repeats": {"dropped": data.dropped},
        "order": order,
        "split": data.split,
        "roles": RULE,
        "tokenizer": {"vocab_size": language.tokenizer.get_vocab_size(), "sha256": fingerprint(language.tokenizer)},
        "labels": dict(language.labels),
        "embedding": {"dim": options.lightgcn.dim, "layers": options.lightgcn.layers},
        "prompt": compiled.prompt,
    }
