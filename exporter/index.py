"""`rexit index`: from tables, a tokenizer and a template to a catalog. docs/format.md says what it holds."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from safetensors.numpy import save

from rexit import __version__
from rexit.bundle.catalog import SPLITS, TABLES, Catalog
from rexit.bundle.files import SCHEMA, FileEntry, check_writable, write_file, write_json
from rexit.bundle.writer import new_folder
from rexit.errors import InputError
from rexit.exporter.catalog import lightgcn, tables
from rexit.exporter.catalog.interactions import Columns, read_entities, read_interactions, rows_of, unify_ids
from rexit.exporter.catalog.neighbours import similar_users
from rexit.exporter.catalog.splits import assign
from rexit.exporter.prompt.lengths import prompt_lengths
from rexit.exporter.prompt.pieces import Pieces, fingerprint, load_tokenizer, single_token
from rexit.exporter.prompt.program import Fields, Lengths, Program, bounds, compile_program
from rexit.exporter.prompt.template import Template, read_template, written


@dataclass(frozen=True)
class _Data:
    """The user's tables in rows. `interactions`: user, item, time, liked, split; `users` and `items` ascending by id."""

    interactions: pl.DataFrame
    users: pl.DataFrame
    items: pl.DataFrame


def build_catalog(
    interactions: Path,
    items: Path,
    tokenizer: str,
    template: Path,
    out: Path,
    *,
    users: Path | None = None,
    columns: Columns | None = None,
    positive_at: float = 4.0,
    neighbours: int = 20,
    settings: lightgcn.Settings | None = None,
    progress: lightgcn.EpochProgress = lambda *_: None,
) -> Mapping[str, Any]:
    """Writes the catalog folder `out`, whole or not at all, and returns what its catalog.json says.

    `progress` is called after each LightGCN epoch. A catalog at `out` is replaced; any other non-empty folder is refused.
    Raises InputError: columns, ids, template, tokenizer, a place that cannot be written.
    """
    columns, settings = columns or Columns(), settings or lightgcn.Settings()
    settings.check()
    if neighbours < 1:
        raise InputError(f"neighbours is {neighbours}, expected at least 1")
    _check_place(out)
    compiled = read_template(template)
    encoder = load_tokenizer(tokenizer)
    if compiled.bos is not None:
        single_token(encoder, compiled.bos, f"{template}: bos")
    labels = {name: single_token(encoder, compiled.labels[name], f"{template}: labels.{name}") for name in ("no", "yes")}
    if labels["no"] == labels["yes"]:
        raise InputError(f"{template}: labels.yes and labels.no are the same token {labels['yes']}, expected two answers")
    data = _read(interactions, items, users, columns, positive_at)

    pieces = Pieces()
    program = compile_program(compiled, data.users.columns[1:], data.items.columns[1:], pieces)
    fields = _fields(program, data, compiled, pieces)
    offsets, tokens = pieces.encode(encoder)
    most = _most_tokens(program, np.diff(offsets), fields, compiled)

    retriever = _retrieve(data, settings, progress)
    embeddings = retriever.users.astype(np.float16)
    content: dict[str, tables.Tensors] = {
        "users.safetensors": {
            **tables.id_tensors(data.users["id"]),
            "embeddings": embeddings,
            "similar": similar_users(embeddings, neighbours),
            **tables.histories(data.interactions, len(data.users)),
            **tables.field_tensors(fields, "user"),
        },
        "items.safetensors": {
            **tables.id_tensors(data.items["id"]),
            "embeddings": retriever.items.astype(np.float16),
            "fold_in": retriever.fold_in.astype(np.float16),
            **tables.ratings(data.interactions, len(data.items)),
            **tables.field_tensors(fields, "item"),
        },
        "pieces.safetensors": {"offsets": offsets, "tokens": tokens},
    }
    info: dict[str, Any] = {
        "schema": SCHEMA,
        "requires": [],
        "producer": f"rexit {__version__}",
        "ids": {what: "int64" if frame["id"].dtype == pl.Int64 else "string" for what, frame in _entities(data)},
        "counts": {
            "users": len(data.users),
            "items": len(data.items),
            "interactions": len(data.interactions),
            "pieces": len(pieces),
        },
        "label": {"column": columns.rating, "positive_at": positive_at},
        "tokenizer": {"vocab_size": encoder.get_vocab_size(), "sha256": fingerprint(encoder)},
        "labels": labels,
        "embedding": {"dim": settings.dim, "layers": settings.layers},
        "prompt": {"template": compiled.text, "prefix": program.prefix, "candidate": program.candidate, **most},
        "retrieval": {
            "recall@20": retriever.recall,
            "popularity_recall@20": retriever.popularity_recall,
            "split": "validation",
            "epochs": retriever.epochs,
        },
    }
    with new_folder(out) as folder:
        _write(folder, info, content, data)
    return info


def _check_place(out: Path) -> None:
    """Fails before the work, not after it. Only a catalog is ever replaced."""
    out = Path(os.path.abspath(out))
    if out.exists() and not (out / "catalog.json").is_file() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"{out}: exists and is no catalog: choose another --out or remove it")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise InputError(f"{out}: cannot be written: {exc.strerror}") from exc
    check_writable(out.parent)


def _entities(data: _Data) -> tuple[tuple[str, pl.DataFrame], ...]:
    return ("user", data.users), ("item", data.items)


def _read(interactions: Path, items: Path, users: Path | None, columns: Columns, positive_at: float) -> _Data:
    frame = read_interactions(interactions, columns, positive_at)
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
    return _Data(assign(frame), sides["user"], sides["item"])


def _fields(program: Program, data: _Data, template: Template, pieces: Pieces) -> dict[str, NDArray[np.int32]]:
    fields = {}
    for what, frame in _entities(data):
        for name, (column, spaced) in getattr(program, f"{what}_fields").items():
            texts = " " + frame[column] if spaced else frame[column]
            missing = pieces.literal(written(template.words["missing"], spaced))
            fields[f"{what}.{name}"] = pieces.column(texts, missing, template.limits.get(f"{what}.{column}"))
    return fields


def _most_tokens(program: Program, lengths: Lengths, fields: Fields, template: Template) -> dict[str, int]:
    low, high = bounds(program.candidate, lengths, fields)
    if low < 1:
        raise InputError(f"{template.path}: the part after the prefix can be without a token: end the prompt with a text")
    return {"max_prefix_tokens": bounds(program.prefix, lengths, fields)[1], "max_candidate_tokens": high}


def _retrieve(data: _Data, settings: lightgcn.Settings, progress: lightgcn.EpochProgress) -> lightgcn.Retriever:
    def edges(split: str, liked: bool) -> lightgcn.Edges:
        part = data.interactions.filter((pl.col("split") == split) & (pl.col("liked") | (not liked)))
        return part["user"].to_numpy(), part["item"].to_numpy()

    train, validation, _ = SPLITS
    return lightgcn.train(
        edges(train, True), edges(train, False), edges(validation, True), len(data.users), len(data.items), settings, progress
    )


def _write(folder: Path, info: dict[str, Any], content: Mapping[str, tables.Tensors], data: _Data) -> None:
    for name in TABLES:
        write_file(folder / name, save(content[name]))
    info["prompt"]["lengths"] = prompt_lengths(Catalog(folder, info, {}))
    (folder / "splits").mkdir()
    splits = {}
    named = data.interactions.with_columns(
        data.users["id"].gather(data.interactions["user"]).alias("user"),
        data.items["id"].gather(data.interactions["item"]).alias("item"),
    )
    for split in SPLITS:
        part = named.filter(pl.col("split") == split).select("user", "item", "time", "liked")
        path, buffer = f"splits/{split}.parquet", io.BytesIO()
        part.write_parquet(buffer)
        write_file(folder / path, buffer.getvalue())
        splits[split] = {"path": path, "rows": len(part), **FileEntry.of(folder / path).to_json()}
    info["splits"] = splits
    info["files"] = {name: FileEntry.of(folder / name).to_json() for name in TABLES}
    write_json(folder / "catalog.json", info)
