"""What a bundle's catalog holds: users and items with random histories, and a prompt program that uses every operation."""

from __future__ import annotations

import copy
import itertools
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from builders.bundles.model import VOCABULARY
from rexit.format.bundle.files import SCHEMA
from rexit.format.roles import RULE

DIM = 8
USERS, ITEMS, NEIGHBOURS = 12, 20, 3


class CatalogContents(NamedTuple):
    """Not yet written: a test may change it first.

    info: catalog.json without `files`; tables: tensors by file name.
    """

    info: dict[str, Any]
    tables: dict[str, dict[str, NDArray[Any]]]


INPUTS: dict[str, dict[str, Any]] = {
    "device": {"values": ["tv", "phone", "7"]},
    "query": {"max_tokens": 6, "spaced": True},
    "note": {"max_tokens": 4, "optional": True},
    "hour": {"bins": [0, 6, 12, 18.5, 24], "optional": True},
}


def with_inputs(contents: CatalogContents, *names: str) -> CatalogContents:
    """The same catalog with some of INPUTS, by default all: a device and a query at the end of the prefix, which every request
    must have, an hour behind the target's title, and a note there and again at the end."""
    info, names = copy.deepcopy(contents.info), names or tuple(INPUTS)
    prompt = info["prompt"]
    if "device" in names:
        prompt["prefix"].append({"op": "input", "name": "device", "pieces": [2, 3, 5]})
    if "query" in names:
        prompt["prefix"].append({"op": "input", "name": "query"})
    if "hour" in names:
        prompt["candidate"].insert(1, {"op": "input", "name": "hour", "pieces": [5, 6, 2, 7], "missing": 1})
    if "note" in names:
        note = {"op": "input", "name": "note", "missing": 1}
        prompt["candidate"].insert(1, note)
        prompt["candidate"].append(note)
    prompt["inputs"] = [{"name": name, **entry} for name, entry in INPUTS.items() if name in names]
    return CatalogContents(info, contents.tables)


def user_ids(users: int, strings: bool = False) -> list[Any]:
    """Not 0, 1, 2, ...: a row taken for an id must fail."""
    return [string_id("user", n) if strings else 100 + 3 * n for n in range(users)]


def item_ids(items: int, strings: bool = False) -> list[Any]:
    return [string_id("item", n) if strings else -7 + 5 * n for n in range(items)]


def string_id(kind: str, number: int) -> str:
    """A multi-byte letter, so that order is by byte."""
    return f"{kind}-ü{number:04d}"


USER_IDS, ITEM_IDS = user_ids(USERS), item_ids(ITEMS)

# Pieces 0 to 9 are the program's literals and words; those from 10 on are titles and genres. Piece 4 is empty.
PROGRAM: dict[str, Any] = {
    "template": "tiny",
    "prefix": [
        {"op": "piece", "piece": 0},
        {"op": "user_field", "field": "age", "missing": 1},
        {"op": "user_like_rate", "bins": [2, 3, 5], "missing": 4},
        {
            "op": "history",
            "order": "recent",
            "limit": 4,
            "empty": 1,
            "entry": [{"op": "item_field", "field": "title"}, {"op": "verdict", "yes": 6, "no": 7}],
        },
        {"op": "similar_liked", "limit": 4, "empty": 8, "entry": [{"op": "item_field", "field": "title"}]},
    ],
    "candidate": [
        {"op": "item_field", "field": "title"},
        {"op": "item_field", "field": "genre"},
        {"op": "item_like_rate", "bins": [2, 3, 5], "missing": 4},
        {"op": "item_count", "bins": [0, 1, 2, 3]},
        {"op": "history", "order": "nearest", "limit": 2, "empty": 1, "entry": [{"op": "item_field", "field": "genre"}]},
        {"op": "similar_verdict", "limit": 2, "yes": 6, "no": 7, "unseen": 8},
        {"op": "piece", "piece": 9},
    ],
    "max_prefix_tokens": 40,
    "max_candidate_tokens": 20,
}


def program_with_vectors() -> dict[str, Any]:
    """The same with vectors among the texts, of the target, of the entries of lists, of the user, and with the user's count."""
    program = copy.deepcopy(PROGRAM)
    program["prefix"].insert(3, {"op": "user_count", "bins": [0, 2, 3]})
    program["prefix"].insert(1, {"op": "user_vector"})
    program["prefix"][5]["entry"].insert(0, {"op": "item_vector", "table": "gcn"})
    program["prefix"][6]["entry"][0] = {"op": "item_vector", "table": "title:2"}
    program["candidate"][0] = {"op": "item_vector", "table": "title:2"}
    program["candidate"].insert(2, {"op": "item_vector", "table": "gcn"})
    program["candidate"][5]["entry"] = [{"op": "item_vector", "table": "gcn"}, {"op": "verdict", "yes": 6, "no": 7}]
    return {**program, "vectors": [{"name": "gcn", "count": 1}, {"name": "title:2", "count": 2}]}


def make_catalog(
    users: int = USERS,
    items: int = ITEMS,
    *,
    seed: int = 1,
    strings: bool = False,
    vectors: bool = False,
    dim: int = DIM,
    history: tuple[int, int] = (3, 12),
) -> CatalogContents:
    """strings: ids are text. vectors: the program has vectors; the tables are the same. history: how many interactions a user
    has, from the first to below the second."""
    random = np.random.default_rng(seed)
    events = sorted(
        (user, int(random.integers(10, 60)), int(item), bool(random.random() < 0.6))
        for user in range(users - 1)  # the last user has no history
        for item in random.integers(0, items - 1, random.integers(*history))  # the last item was never met; some are met twice
    )
    user_of, times, item_of, liked = (np.array(column) for column in zip(*events, strict=True))
    user_offsets = np.searchsorted(user_of, np.arange(users + 1)).astype(np.int64)
    by_item = np.concatenate([np.lexsort((np.arange(b - a), item_of[a:b])) for a, b in itertools.pairwise(user_offsets)])
    by_rating = np.lexsort((times, item_of))
    item_offsets = np.searchsorted(item_of[by_rating], np.arange(items + 1)).astype(np.int64)
    likes = np.concatenate([np.cumsum(liked[by_rating][a:b]) for a, b in itertools.pairwise(item_offsets)])

    def unit(rows: int) -> NDArray[np.float16]:
        values = random.standard_normal((rows, dim))
        normalized: NDArray[np.float16] = (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float16)
        return normalized

    user_embeddings, item_embeddings = unit(users), unit(items)
    item_embeddings[5] = item_embeddings[3]  # a tie
    scores = user_embeddings.astype(np.float64) @ user_embeddings.astype(np.float64).T
    np.fill_diagonal(scores, -np.inf)
    lengths = np.array([2, 1, 1, 2, 0, 1, 1, 1, 1, 2, *random.integers(1, 4, items + 10)])
    tables: dict[str, dict[str, NDArray[Any]]] = {
        "users.safetensors": {
            "embeddings": user_embeddings,
            "similar": np.argsort(-scores, axis=1, kind="stable")[:, :NEIGHBOURS].astype(np.int32),
            "history_offsets": user_offsets,
            "history_items": item_of.astype(np.int32),
            "history_times": times.astype(np.int64),
            "history_liked": liked.astype(np.uint8),
            "history_by_item": by_item.astype(np.int32),
            "field.age": random.integers(10, 20, users).astype(np.int32),
        },
        "items.safetensors": {
            "embeddings": item_embeddings,
            "fold_in": (unit(items) * np.float16(0.3)).astype(np.float16),
            "rating_offsets": item_offsets,
            "rating_times": times[by_rating].astype(np.int64),
            "rating_likes": likes.astype(np.int32),
            "field.title": (10 + np.arange(items)).astype(np.int32),
            "field.genre": random.integers(items + 10, items + 20, items).astype(np.int32),
        },
        "pieces.safetensors": {
            "offsets": np.concatenate(([0], np.cumsum(lengths))).astype(np.int64),
            "tokens": random.integers(0, VOCABULARY, lengths.sum()).astype(np.int32),
        },
    }
    for name, ids in (("users.safetensors", user_ids(users, strings)), ("items.safetensors", item_ids(items, strings))):
        if strings:
            raw = [text.encode() for text in ids]
            tables[name]["id_bytes"] = np.frombuffer(b"".join(raw), np.uint8)
            tables[name]["id_offsets"] = np.concatenate(([0], np.cumsum([len(r) for r in raw]))).astype(np.int64)
        else:
            tables[name]["ids"] = np.array(ids, np.int64)
    kind = "string" if strings else "int64"
    info = {
        "schema": SCHEMA,
        "producer": "tiny",
        "ids": {"user": kind, "item": kind},
        "counts": {"users": users, "items": items, "interactions": len(events), "pieces": len(lengths)},
        "columns": {"user": "user_id", "item": "item_id", "rating": "rating", "time": "timestamp"},
        "label": {"positive_at": 4.0},
        "roles": RULE,
        "order": {"by": "time", "unit": "seconds", "first": int(times.min()), "last": int(times.max())},
        "tokenizer": {"vocab_size": VOCABULARY, "sha256": "0" * 64},
        "labels": {"no": 1, "yes": 2},
        "embedding": {"dim": dim, "layers": 2},
        "prompt": program_with_vectors() if vectors else PROGRAM,
        "retrieval": {},
        "splits": {},
    }
    return CatalogContents(info, tables)


def in_lists(contents: CatalogContents, lists: int = 4, probes: int = 2) -> CatalogContents:
    """The same catalog with its users in lists around some of their embeddings; `similar` is unchanged."""
    tables, info = copy.deepcopy(contents.tables), copy.deepcopy(contents.info)
    users = tables["users.safetensors"]
    embeddings = users["embeddings"].astype(np.float64)
    known = embeddings.any(1)
    centres = users["embeddings"][np.flatnonzero(known)[:lists]]
    owner = np.where(known, (embeddings @ centres.astype(np.float64).T).argmax(1), len(centres))
    order = np.argsort(owner, kind="stable")
    users["embeddings"], users["centres"], users["list_users"] = users["embeddings"][order], centres, order.astype(np.int32)
    users["list_offsets"] = np.searchsorted(owner[order], np.arange(len(centres) + 1)).astype(np.int64)
    info["embedding"]["probes"] = probes
    return CatalogContents(info, tables)
