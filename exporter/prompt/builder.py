"""The reference assembler of the prompt program: a slate's token ids from the catalog's tables.

Training, export and tests use it. The runtime's C++ assembler must give the same ids. docs/format.md has the rules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rexit.bundle.catalog import Catalog
from rexit.bundle.input_kinds import Value
from rexit.bundle.inputs import Codes
from rexit.exporter.prompt.histories import Histories, Rows
from rexit.exporter.prompt.program import Op, needs_target
from rexit.exporter.prompt.retrieval import Graph, Snapshots
from rexit.exporter.retriever.neighbours import folded_in, nonzero_rows, top
from rexit.ids import Id

Tokens = NDArray[np.int32]
Numbers = NDArray[np.float32]
Entries = tuple[Rows, NDArray[np.bool_]]
"""Rows of items, and whether the user liked them."""

_NO_ROWS = np.empty(0, np.int64)


@dataclass(frozen=True)
class Prompt:
    """A slate's token ids. Ids beyond the vocabulary stand for vectors (`rexit.bundle.vectors`).

    prefix: int32 [P], shared. candidates: int32 [T] each.
    liked: int64, rows of the items that the user had liked, the source of the user's vector.
    part: of a training prompt, the part of the user's training whose snapshot its vectors come from (0: no snapshot); None: the
        catalog's own graph.
    """

    prefix: Tokens
    candidates: list[Tokens]
    liked: Rows
    part: int | None


@dataclass(frozen=True)
class _Request:
    """What the ops read of a request.

    part: as in `Prompt`. graph: the retriever, None if there is none yet.
    items, liked: the history, visible interactions before fresh ones. similar: user rows, nearest first.
    inputs: the codes of the prompt's inputs, for all targets or for each.
    """

    part: int | None
    graph: Graph | None
    as_of: int | None
    items: Rows
    liked: NDArray[np.bool_]
    similar: Rows
    inputs: Sequence[Sequence[Codes]]


class PromptBuilder:
    """Assembles prompts from a catalog. Reads the tables once; threads may share it.

    Prompts of the train split retrieve with snapshots (`rexit.exporter.retriever.snapshots`) and need `as_of`. All others
    retrieve with the catalog's own graph, as the runtime does.
    """

    @classmethod
    def of(cls, catalog: Catalog, split: str) -> PromptBuilder:
        """A builder for the slates of a split. Raises BundleError: the train split needs snapshots."""
        return cls(catalog, training=split == "train")

    def __init__(self, catalog: Catalog, training: bool = False) -> None:
        """training: for prompts of the train split. Raises BundleError for a catalog without snapshots."""
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
        self._numbers = catalog.numbers
        read = [*self._candidate, *self._numbers]
        near = [op for op in read if op["op"] == "nearest_like_rate" or op.get("order") == "nearest"]
        self._longest = max((op["limit"] for op in near), default=0)
        self._histories = Histories(catalog)
        self._inputs = catalog.inputs
        self._input_places = {name: n for n, name in enumerate(self._inputs.names)}

    def prompt(
        self,
        user: Id | None,
        items: Sequence[Id],
        as_of: int | None = None,
        recent: Sequence[tuple[Id, bool]] = (),
        inputs: Mapping[str, Value] | None = None,
    ) -> Prompt:
        """Assembles a slate's prompts, by ids.

        Args:
            user: a user's id; None or unknown to the catalog: only `recent` is known of the user.
            items: ids of the candidates.
            as_of: use interactions before this time; None: all.
            recent: fresh interactions (item, liked), oldest first.
            inputs: the request's inputs: values by name, texts as token ids.

        Raises:
            InputError: an item is not in the catalog, or an input is not what the template says.
        """
        row, targets, pairs = self._rows(user, items, recent)
        return self.prompt_rows(row, targets, as_of, pairs, [self._inputs.encode(inputs)])

    def prompt_rows(
        self,
        user: int | None,
        items: Rows | Sequence[int],
        as_of: int | None = None,
        recent: Sequence[tuple[int, bool]] = (),
        inputs: Sequence[Sequence[Codes]] | None = None,
    ) -> Prompt:
        """Assembles a slate's prompts, by rows, for instance those of `Catalog.split`.

        Args:
            user: None: not in the catalog.
            items, as_of, recent: as in `prompt`.
            inputs: the codes of the prompt's inputs, once, or for each item if they differ behind the prefix; None: the request
                has none.
        """
        encoded = [self._inputs.encode(None)] if inputs is None else inputs
        request = self._request(user, as_of, recent, self._prefix + self._candidate, encoded)
        targets = np.asarray(items, np.int64)
        prefix = [piece for op in self._prefix for piece in self._shared(op, user, request)]
        nearest = self._nearest(request, targets)
        parts = [self._by_target(op, user, request, targets, nearest) for op in self._candidate]
        candidates = [self._encode([p for part in parts for p in part[n]]) for n in range(len(targets))]
        return Prompt(self._encode(prefix), candidates, request.items[request.liked], request.part)

    def numbers(
        self,
        user: Id | None,
        items: Sequence[Id],
        as_of: int | None = None,
        recent: Sequence[tuple[Id, bool]] = (),
        scores: NDArray[np.float32] | None = None,
    ) -> Numbers:
        """What exit zero reads of a slate, float32 [N, F], by ids. scores: the first stage's, if they are read. The other
        arguments and errors are those of `prompt`."""
        row, targets, pairs = self._rows(user, items, recent)
        return self.number_rows(row, targets, as_of, pairs, scores)

    def number_rows(
        self,
        user: int | None,
        items: Rows | Sequence[int],
        as_of: int | None = None,
        recent: Sequence[tuple[int, bool]] = (),
        scores: NDArray[np.float32] | None = None,
    ) -> Numbers:
        """`numbers` by rows. Arguments are those of `prompt_rows`."""
        request, targets = self._request(user, as_of, recent, self._numbers), np.asarray(items, np.int64)
        nearest: Sequence[Entries] = []
        if any(op["op"] == "nearest_like_rate" for op in self._numbers):
            nearest = self._nearest(request, targets)
        table = np.empty((len(targets), len(self._numbers)), np.float32)
        for column, op in enumerate(self._numbers):
            table[:, column] = scores if op["op"] == "score" else self._number(op, request, targets, nearest)
        return table

    def _rows(
        self, user: Id | None, items: Sequence[Id], recent: Sequence[tuple[Id, bool]]
    ) -> tuple[int | None, Rows, list[tuple[int, bool]]]:
        """User, items and fresh interactions by rows. Raises InputError: an item is not in the catalog."""
        ids = self._catalog.items
        fresh = ids.rows([item for item, _ in recent]).tolist()
        row = None if user is None else self._catalog.users.row(user)
        return row, ids.rows(items), [(item, liked) for item, (_, liked) in zip(fresh, recent, strict=True)]

    def _number(self, op: Op, request: _Request, targets: Rows, nearest: Sequence[Entries]) -> NDArray[np.float64]:
        """An op's values, float64 [targets] or one for all."""
        if op["op"] == "gcn":
            return self._products(request, targets)
        n, likes = self._counts(op, request, targets, nearest).astype(np.float64).T
        return n if op["op"].endswith("_count") else np.where(n > 0, (likes + 1) / (n + 2), np.nan)

    def _counts(self, op: Op, request: _Request, targets: Rows, nearest: Sequence[Entries]) -> NDArray[np.int64]:
        """How many interactions a rate or a count is of, and likes among them: int64 [targets, 2], or [1, 2] for all targets."""
        match op["op"]:
            case "user_count" | "user_like_rate":
                counts = [(len(request.items), int(request.liked.sum()))]
            case "item_count" | "item_like_rate":
                counts = [self._histories.ratings(target, request.as_of) for target in targets.tolist()]
            case "similar_like_rate":
                rated, liked = self._histories.verdicts(request.similar[: op["limit"]], targets, request.as_of)
                return np.stack([rated.sum(1), (liked & rated).sum(1)], 1)
            case "nearest_like_rate":
                verdicts = [liked[: op["limit"]] for _, liked in nearest]
                counts = [(len(liked), int(liked.sum())) for liked in verdicts]
            case _:
                raise ValueError(f"op {op['op']!r} is not one of docs/format.md")
        return np.array(counts, np.int64).reshape(-1, 2)

    def _products(self, request: _Request, targets: Rows) -> NDArray[np.float64]:
        """Each target's product with the user's folded-in embedding of length 1; NaN if either is zero."""
        unknown = np.full(len(targets), np.nan)
        if request.graph is None:
            return unknown
        user = folded_in(request.graph.fold_in[request.items[request.liked]]).astype(np.float64)
        items = request.graph.items[targets].astype(np.float64)
        return np.where(nonzero_rows(items), items @ user / np.sqrt(user @ user), np.nan) if user.any() else unknown

    def _encode(self, pieces: list[int]) -> Tokens:
        offsets, tokens = self._offsets, self._tokens
        return np.concatenate(
            [
                tokens[:0],
                *(tokens[offsets[p] : offsets[p + 1]] if p >= 0 else np.array([~p], np.int32) for p in pieces),
            ]
        )

    def _vectors(self, table: str, item: int) -> list[int]:
        """An item's vectors among pieces: the complements (~) of their ids."""
        assert self._ids is not None
        count = self._ids.tables[table]
        begin = self._vector_begins[table] + item * count
        return [~vector for vector in range(begin, begin + count)]

    def _request(
        self,
        user: int | None,
        as_of: int | None,
        recent: Sequence[tuple[int, bool]],
        ops: Sequence[Op],
        inputs: Sequence[Sequence[Codes]] = (),
    ) -> _Request:
        """ops: those that will read it."""
        visible = slice(0, 0) if user is None else self._histories.visible(user, as_of)
        items = np.concatenate([self._users["history_items"][visible], np.array([i for i, _ in recent], np.int64)])
        liked = np.concatenate([self._users["history_liked"][visible] > 0, np.array([bool(v) for _, v in recent], np.bool_)])
        part, graph = self._graph_of(user, as_of)
        similar = _NO_ROWS
        if graph is not None and any(op["op"].startswith("similar_") for op in ops):
            similar = self._similar(graph, user, items[liked], whole=as_of is None and not recent)
        return _Request(part, graph, as_of, items, liked, similar, inputs)

    def _graph_of(self, user: int | None, as_of: int | None) -> tuple[int | None, Graph | None]:
        if self._snapshots is None:
            return None, self._graph
        if user is None or as_of is None:
            raise ValueError("a training prompt needs a known user and `as_of`")
        part = self._snapshots.part(user, as_of)
        return part, self._snapshots.before(part)

    def _similar(self, graph: Graph, user: int | None, liked: Rows, whole: bool) -> Rows:
        """Rows of the users nearest to a user who `liked` these items. whole: these are all the user's likes in the catalog."""
        if whole and user is not None:
            stored: Rows = self._users["similar"][user].astype(np.int64)
            others: Rows = stored[stored != user]  # the own row fills places without a neighbour
            return others
        query = folded_in(graph.fold_in[liked])
        return graph.around.nearest(query[None], np.array([-1 if user is None else user]))[0]

    def _shared(self, op: Op, user: int | None, request: _Request) -> list[int]:
        """The pieces of an op that does not depend on the target, including vectors (see `_vectors`)."""
        match op["op"]:
            case "piece":
                return [op["piece"]]
            case "user_field":
                return [op["missing"] if user is None else int(self._users[f"field.{op['field']}"][user])]
            case "user_like_rate" | "user_count":
                return _binned(op, self._counts(op, request, _NO_ROWS, ()))
            case "history":
                first = dropped(len(request.items), op["limit"])
                return self._entries(op, request.items[first:], request.liked[first:])
            case "similar_liked":
                items = self._histories.likes_of(request.similar, request.items, op["limit"], request.as_of)
                return self._entries(op, items, np.ones(len(items), np.bool_))
            case "user_vector":
                assert self._ids is not None
                return [~self._ids.user_id]
            case "input":
                return self._input_pieces(op, request)[0]
        raise ValueError(f"prompt op {op['op']!r} is not one of docs/format.md")

    def _by_target(
        self, op: Op, user: int | None, request: _Request, targets: Rows, nearest: Sequence[Entries]
    ) -> list[list[int]]:
        """The pieces of an op of the candidate's part, by target. nearest: the history's nearest items, by target."""
        if op["op"] == "input" and len(request.inputs) == len(targets):
            return self._input_pieces(op, request)
        if not needs_target(op):
            return [self._shared(op, user, request)] * len(targets)
        match op["op"]:
            case "item_field":
                return [[piece] for piece in self._items[f"field.{op['field']}"][targets].tolist()]
            case "item_vector":
                return [self._vectors(op["table"], target) for target in targets.tolist()]
            case "item_like_rate" | "item_count" | "nearest_like_rate" | "similar_like_rate":
                return [[piece] for piece in _binned(op, self._counts(op, request, targets, nearest))]
            case "history":
                return [self._entries(op, items[: op["limit"]], liked[: op["limit"]]) for items, liked in nearest]
            case "similar_verdict":
                return self._similar_verdict(op, request, targets)
        raise ValueError(f"prompt op {op['op']!r} is not one of docs/format.md")

    def _input_pieces(self, op: Op, request: _Request) -> list[list[int]]:
        """For each of the request's inputs: the pieces of its codes, the complements (~) of its tokens, or its `missing`."""
        at, pieces = self._input_places[op["name"]], op.get("pieces")
        codes = [inputs[at].tolist() for inputs in request.inputs]
        return [[~code if pieces is None else pieces[code] for code in value] or [op["missing"]] for value in codes]

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

    def _nearest(self, request: _Request, targets: Rows) -> list[Entries]:
        """The items of the history nearest to each target, nearest first, and whether they were liked.

        As many as the longest list of the prompt has; shorter lists take the first of them.
        """
        if (graph := request.graph) is None or not self._longest:
            return [(targets[:0], request.liked[:0])] * len(targets)
        # Latest first: np.unique takes each item's latest verdict, and a stable sort prefers the later of equals.
        items, liked = request.items[::-1], request.liked[::-1]
        latest = np.sort(np.unique(items, return_index=True)[1])
        items, liked = items[latest], liked[latest]
        target_rows, item_rows = (graph.items[rows].astype(np.float64) for rows in (targets, items))
        scores = target_rows @ item_rows.T
        scores[(targets[:, None] == items) | ~nonzero_rows(target_rows)[:, None] | ~nonzero_rows(item_rows)] = -np.inf
        nearest = [top(row, self._longest) for row in scores]
        return [(items[places], liked[places]) for places in nearest]

    def _similar_verdict(self, op: Op, request: _Request, targets: Rows) -> list[list[int]]:
        if not len(request.similar):
            return [[op["unseen"]]] * len(targets)
        rated, liked = self._histories.verdicts(request.similar[: op["limit"]], targets, request.as_of)
        words = np.where(rated, np.where(liked, op["yes"], op["no"]), op["unseen"])
        result: list[list[int]] = words.tolist()
        return result


def dropped(n: int, limit: int) -> int:
    """The number of interactions, of a history of n, that are too old for a list of `limit`.

    Half a list is dropped at a time. In between the list only grows at its end, so that a device's cached prefix stays valid.
    """
    step = max(1, limit // 2)
    return -(-max(0, n - limit) // step) * step


def _binned(op: Op, counts: NDArray[np.int64]) -> list[int]:
    """The pieces of a rate or a count. counts: see `PromptBuilder._counts`."""
    bins, pairs = op["bins"], counts.tolist()
    if op["op"].endswith("_count"):
        return [bins[min(len(bins) - 1, n.bit_length())] for n, _ in pairs]
    return [bins[(likes + 1) * len(bins) // (n + 2)] if n else op["missing"] for n, likes in pairs]
