"""The reference assembler of the prompt program: token ids of a slate, from the catalog's tables alone.

Training, export and tests use it; the runtime's C++ assembler must give the same ids. The rules are docs/format.md's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rexit.bundle.catalog import Catalog, Id
from rexit.exporter.catalog.neighbours import folded_in, nonzero_rows, top
from rexit.exporter.prompt.program import Op, needs_target
from rexit.exporter.prompt.retrieval import Graph, Snapshots

Tokens = NDArray[np.int32]
Rows = NDArray[np.int64]
Entries = tuple[Rows, NDArray[np.bool_]]
"""Items of a history, and whether they were liked."""


@dataclass(frozen=True)
class Prompt:
    """What one slate is asked: token ids of the shared prefix [P] and of each candidate's own part [T], int32.

    Ids beyond the vocabulary stand for vectors (`rexit.bundle.vectors`). liked: rows of the items that the user had liked, which
    the user's vector is made of. part: of the user's training, whose snapshot a training prompt's vectors are made from (0:
    nothing was known); None: the catalog's own graph.
    """

    prefix: Tokens
    candidates: list[Tokens]
    liked: Rows
    part: int | None


@dataclass(frozen=True)
class _Request:
    """`items` and `liked` are the history: visible interactions, then fresh ones. `similar` are user rows, nearest first.

    part: as in `Prompt`. graph: what is retrieved with; None where there is nothing yet.
    """

    part: int | None
    graph: Graph | None
    as_of: int | None
    items: Rows
    liked: NDArray[np.bool_]
    similar: Rows


class PromptBuilder:
    """Assembles prompts from a catalog. Reads the tables once; not bound to a thread afterwards.

    training: prompts of the train split. They retrieve with what was known before (`rexit.exporter.catalog.snapshots`) and need
    `as_of`; all others retrieve with the catalog's own graph, as the runtime does. Raises BundleError for a catalog without
    snapshots.
    """

    @classmethod
    def of(cls, catalog: Catalog, split: str) -> PromptBuilder:
        """For the slates of a split."""
        return cls(catalog, training=split == "train")

    def __init__(self, catalog: Catalog, training: bool = False) -> None:
        self._catalog = catalog
        prompt = catalog.info["prompt"]
        self._prefix: list[Op] = prompt["prefix"]
        self._candidate: list[Op] = prompt["candidate"]
        self._users, self._items = catalog.user_table, catalog.item_table
        self._offsets, self._tokens = catalog.piece_table["offsets"], catalog.piece_table["tokens"]
        self._graph = Graph.of(catalog)
        self._snapshots = Snapshots(catalog) if training else None
        self._ids = catalog.vector_ids
        self._vector_begins = self._ids.begins() if self._ids else {}
        near = [op for op in self._candidate if op["op"] == "nearest_like_rate" or op.get("order") == "nearest"]
        self._longest = max((op["limit"] for op in near), default=0)
        self._asks_for_similar = any(op["op"].startswith("similar_") for op in self._prefix + self._candidate)
        # (user, item) pairs of all interactions in ascending order, so that a verdict is found by binary search.
        starts = self._users["history_offsets"]
        owner = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
        self._by_item = starts[owner] + self._users["history_by_item"]
        self._pairs = owner * len(catalog.items) + self._users["history_items"][self._by_item]

    def prompt(
        self, user: Id | None, items: Sequence[Id], as_of: int | None = None, recent: Sequence[tuple[Id, bool]] = ()
    ) -> Prompt:
        """The prompts of `items` for one user, by ids.

        A user the catalog does not hold (or None) is allowed, an item it does not hold raises InputError. `as_of`: only
        interactions with an earlier time are used; None: all. `recent`: fresh interactions (item, liked), oldest first.
        """
        known = self._catalog.items
        fresh = known.rows([item for item, _ in recent])
        row = None if user is None else self._catalog.users.row(user)
        return self.prompt_rows(
            row, known.rows(items), as_of, [(int(i), liked) for i, (_, liked) in zip(fresh, recent, strict=True)]
        )

    def prompt_rows(
        self, user: int | None, items: Rows | Sequence[int], as_of: int | None = None, recent: Sequence[tuple[int, bool]] = ()
    ) -> Prompt:
        """The same by rows: what training uses, with the rows of `Catalog.split`. `user` None: not in the catalog."""
        request = self._request(user, as_of, recent)
        targets = np.asarray(items, np.int64)
        prefix = [piece for op in self._prefix for piece in self._shared(op, user, request)]
        nearest = self._nearest(request, targets)
        parts = [self._each(op, user, request, targets, nearest) for op in self._candidate]
        candidates = [self._encode([p for part in parts for p in part[n]]) for n in range(len(targets))]
        return Prompt(self._encode(prefix), candidates, request.items[request.liked], request.part)

    def prefix(self, user: Id | None, as_of: int | None = None, recent: Sequence[tuple[Id, bool]] = ()) -> Tokens:
        """The prefix of a user's prompts, int32 [P]."""
        return self.prompt(user, [], as_of, recent).prefix

    def candidate(self, user: Id | None, item: Id, as_of: int | None = None, recent: Sequence[tuple[Id, bool]] = ()) -> Tokens:
        """One item's part of the prompt, int32 [T]."""
        return self.prompt(user, [item], as_of, recent).candidates[0]

    def _encode(self, pieces: list[int]) -> Tokens:
        offsets, tokens = self._offsets, self._tokens
        return np.concatenate(
            [
                tokens[:0],
                *(tokens[offsets[p] : offsets[p + 1]] if p >= 0 else np.array([~p], np.int32) for p in pieces),
            ]
        )

    def _vectors(self, table: str, item: int) -> list[int]:
        """An item's vectors among pieces: the complements of their ids."""
        assert self._ids is not None
        count = self._ids.tables[table]
        begin = self._vector_begins[table] + item * count
        return [~id for id in range(begin, begin + count)]

    def _visible(self, user: int, as_of: int | None) -> slice:
        begin, end = self._users["history_offsets"][user : user + 2]
        if as_of is not None:
            end = begin + np.searchsorted(self._users["history_times"][begin:end], as_of)
        return slice(int(begin), int(end))

    def _request(self, user: int | None, as_of: int | None, recent: Sequence[tuple[int, bool]]) -> _Request:
        seen = slice(0, 0) if user is None else self._visible(user, as_of)
        items = np.concatenate([self._users["history_items"][seen], np.array([i for i, _ in recent], np.int64)])
        liked = np.concatenate([self._users["history_liked"][seen] > 0, np.array([bool(v) for _, v in recent], np.bool_)])
        part, graph = self._graph_of(user, as_of)
        similar = self._similar(graph, user, items[liked], whole=as_of is None and not recent)
        return _Request(part, graph, as_of, items, liked, similar)

    def _graph_of(self, user: int | None, as_of: int | None) -> tuple[int | None, Graph | None]:
        if self._snapshots is None:
            return None, self._graph
        if user is None or as_of is None:
            raise ValueError("a training prompt is one of a known user as of a moment")
        part = self._snapshots.part(user, as_of)
        return part, self._snapshots.before(part)

    def _similar(self, graph: Graph | None, user: int | None, liked: Rows, whole: bool) -> Rows:
        """Rows of the users nearest to one who `liked` these items. `whole`: they are all that the catalog knows of `user`."""
        if graph is None or not self._asks_for_similar:
            return np.empty(0, np.int64)
        if whole and user is not None:
            kept: Rows = self._users["similar"][user].astype(np.int64)
            others: Rows = kept[kept != user]  # its own row stands where there is no neighbour
            return others
        query = folded_in(graph.fold_in[liked])
        return graph.around.nearest(query[None], np.array([-1 if user is None else user]))[0]

    def _shared(self, op: Op, user: int | None, request: _Request) -> list[int]:
        """The pieces of an op that does not depend on the target; among them vectors, see `_vectors`."""
        match op["op"]:
            case "piece":
                return [op["piece"]]
            case "user_field":
                return [op["missing"] if user is None else int(self._users[f"field.{op['field']}"][user])]
            case "user_like_rate":
                return [_rate(op, len(request.items), int(request.liked.sum()))]
            case "user_count":
                return [_count(op, len(request.items))]
            case "history":
                first = dropped(len(request.items), op["limit"])
                return self._entries(op, request.items[first:], request.liked[first:])
            case "similar_liked":
                items = self._similar_liked(op["limit"], request)
                return self._entries(op, items, np.ones(len(items), np.bool_))
            case "user_vector":
                assert self._ids is not None
                return [~self._ids.user_id]
        raise ValueError(f"prompt op {op['op']!r} is not one of docs/format.md")

    def _each(self, op: Op, user: int | None, request: _Request, targets: Rows, nearest: Sequence[Entries]) -> list[list[int]]:
        """The pieces of an op of the candidate's part, for each target, of which `nearest` are the nearest items."""
        if not needs_target(op):
            return [self._shared(op, user, request)] * len(targets)
        match op["op"]:
            case "item_field":
                return [[piece] for piece in self._items[f"field.{op['field']}"][targets].tolist()]
            case "item_vector":
                return [self._vectors(op["table"], target) for target in targets.tolist()]
            case "item_like_rate":
                return [[_rate(op, *self._ratings(target, request.as_of))] for target in targets]
            case "item_count":
                return [[_count(op, self._ratings(target, request.as_of)[0])] for target in targets]
            case "history":
                return [self._entries(op, items[: op["limit"]], liked[: op["limit"]]) for items, liked in nearest]
            case "similar_verdict":
                return self._similar_verdict(op, request, targets)
            case "nearest_like_rate":
                verdicts = [liked[: op["limit"]] for _, liked in nearest]
                return [[_rate(op, len(liked), int(liked.sum()))] for liked in verdicts]
            case "similar_like_rate":
                met, liked = self._said(op, request, targets)
                return [[_rate(op, int(m.sum()), int(v.sum()))] for m, v in zip(met, liked & met, strict=True)]
        raise ValueError(f"prompt op {op['op']!r} is not one of docs/format.md")

    def _entries(self, op: Op, items: Rows, liked: NDArray[np.bool_]) -> list[int]:
        if not len(items):
            return [op["empty"]]
        pieces = []
        for item, verdict in zip(items, liked, strict=True):
            for part in op["entry"]:
                if part["op"] == "verdict":
                    pieces.append(part["yes" if verdict else "no"])
                elif part["op"] == "item_vector":
                    pieces += self._vectors(part["table"], int(item))
                else:
                    pieces.append(part["piece"] if part["op"] == "piece" else int(self._items[f"field.{part['field']}"][item]))
        return pieces

    def _ratings(self, item: int, as_of: int | None) -> tuple[int, int]:
        """Visible interactions of an item, and the likes among them."""
        begin, end = (int(edge) for edge in self._items["rating_offsets"][item : item + 2])
        n = end - begin if as_of is None else int(np.searchsorted(self._items["rating_times"][begin:end], as_of))
        return n, int(self._items["rating_likes"][begin + n - 1]) if n else 0

    def _similar_liked(self, limit: int, request: _Request) -> Rows:
        if not len(request.similar):
            return np.empty(0, np.int64)
        skipped: set[int] = set(request.items.tolist())
        taken: list[int] = []
        each = -(-limit // len(request.similar))
        for neighbour in request.similar:
            seen = self._visible(int(neighbour), request.as_of)
            likes = self._users["history_items"][seen][self._users["history_liked"][seen] > 0][::-1]
            new = 0
            for item in likes.tolist():
                if new == each or len(taken) == limit:
                    break
                if item not in skipped:
                    skipped.add(item)
                    taken.append(item)
                    new += 1
        return np.array(taken, np.int64)

    def _nearest(self, request: _Request, targets: Rows) -> list[Entries]:
        """Of the history the items nearest to each target, nearest first, and whether they were liked: as many as the longest
        list of the prompt has, of which the shorter ones are the start."""
        if (graph := request.graph) is None or not self._longest:
            return [(targets[:0], request.liked[:0])] * len(targets)
        # From the latest backwards: np.unique keeps each item's latest verdict, a stable sort prefers the later of equals.
        items, liked = request.items[::-1], request.liked[::-1]
        kept = np.sort(np.unique(items, return_index=True)[1])
        items, liked = items[kept], liked[kept]
        there, here = (graph.items[rows].astype(np.float64) for rows in (targets, items))
        scores = there @ here.T
        scores[(targets[:, None] == items) | ~nonzero_rows(there)[:, None] | ~nonzero_rows(here)] = -np.inf
        chosen = [top(line, self._longest) for line in scores]
        return [(items[c], liked[c]) for c in chosen]

    def _similar_verdict(self, op: Op, request: _Request, targets: Rows) -> list[list[int]]:
        if not len(request.similar):
            return [[op["unseen"]]] * len(targets)
        met, liked = self._said(op, request, targets)
        words = np.where(met, np.where(liked, op["yes"], op["no"]), op["unseen"])
        result: list[list[int]] = words.tolist()
        return result

    def _said(self, op: Op, request: _Request, targets: Rows) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Whether each similar user has met each target, and liked it: both [targets, users]."""
        pairs = request.similar[: op["limit"]] * len(self._catalog.items) + targets[:, None]
        begin, at = np.searchsorted(self._pairs, pairs), np.searchsorted(self._pairs, pairs, "right") - 1
        if request.as_of is not None:
            while (late := (at >= begin) & (self._users["history_times"][self._by_item[at]] >= request.as_of)).any():
                at[late] -= 1
        return at >= begin, self._users["history_liked"][self._by_item[at]] > 0


def dropped(n: int, limit: int) -> int:
    """How many interactions of a history of n are too old for a list of `limit`.

    They are dropped half a list at a time: meanwhile the list only grows at its end, and what a device has computed of a user's
    prefix stays good up to there.
    """
    step = max(1, limit // 2)
    return -(-max(0, n - limit) // step) * step


def _count(op: dict[str, Any], n: int) -> int:
    bins = op["bins"]
    return int(bins[min(len(bins) - 1, n.bit_length())])


def _rate(op: dict[str, Any], n: int, likes: int) -> int:
    bins = op["bins"]
    return int(bins[(likes + 1) * len(bins) // (n + 2)] if n else op["missing"])
