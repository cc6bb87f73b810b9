"""Prompts and exit zero's numbers: docs/format/prompt.md followed word by word, with plain lists and one candidate at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rexit.format.bundle import Catalog

Half = NDArray[np.float16]
Verdict = tuple[int, bool]
"""An item's row, and whether it was liked."""


@dataclass(frozen=True)
class Space:
    """Embeddings by row, and the lists that a search scans: centres, each user's list (-1: none), probes. None: all users."""

    users: Half
    items: Half
    fold_in: Half
    lists: tuple[Half, NDArray[np.int64], int] | None = None

    @classmethod
    def of(cls, catalog: Catalog) -> Space:
        lists, table = None, catalog.user_table
        if catalog.probes is not None:
            owner, starts = np.full(len(table["list_users"]), -1), table["list_offsets"]
            for n in range(len(starts) - 1):
                owner[table["list_users"][starts[n] : starts[n + 1]]] = n
            lists = table["centres"], owner, catalog.probes
        return cls(catalog.user_embeddings, catalog.item_table["embeddings"], catalog.item_table["fold_in"], lists)


def shown_from(n: int, limit: int) -> int:
    """The first of n interactions in a list of `limit`: half a list leaves at a time."""
    first = 0
    while n - first > limit:
        first += max(1, limit // 2)
    return first


def product(a: Any, b: Any) -> float:
    return float(a.astype(np.float64) @ b.astype(np.float64))


def folded_in(rows: Half) -> NDArray[np.float64]:
    """The direction of a user who liked items with these `fold_in` rows: rounded to halves, the largest component in [0.5, 1)."""
    total = rows.astype(np.float64).sum(0)
    return np.ldexp(total, -math.frexp(abs(total).max())[1]).astype(np.float16).astype(np.float64)


class Assembler:
    """One request's view of a catalog. space: what it retrieves with; None: nothing is near to anything."""

    def __init__(
        self,
        catalog: Catalog,
        user: int | None,
        as_of: int | None = None,
        recent: Sequence[Verdict] = (),
        codes: Sequence[Sequence[int]] = (),
        space: Space | None = None,
    ) -> None:
        self.catalog, self.user, self.as_of, self.codes, self.space = catalog, user, as_of, codes, space
        self.prompt, self.users, self.items = catalog.info["prompt"], catalog.user_table, catalog.item_table
        self.history = [*([] if user is None else self.visible(user)), *recent]
        self.is_whole = user is not None and as_of is None and not recent

    def visible(self, user: int) -> list[Verdict]:
        begin, end = self.users["history_offsets"][user : user + 2].tolist()
        rows = range(begin, end)
        seen = [n for n in rows if self.as_of is None or self.users["history_times"][n] < self.as_of]
        return [(int(self.users["history_items"][n]), bool(self.users["history_liked"][n])) for n in seen]

    def folded(self) -> NDArray[np.float64]:
        """The user's direction, zeros if there is none."""
        assert self.space is not None
        return folded_in(self.space.fold_in[[item for item, liked in self.history if liked]])

    def similar(self) -> list[int]:
        if self.space is None:
            return []
        stored = self.users["similar"]
        if self.is_whole:
            return [int(row) for row in stored[self.user] if row != self.user]
        direction = self.folded()
        if not direction.any():
            return []
        candidates = [u for u in range(len(self.space.users)) if u != self.user and self.space.users[u].any()]
        if self.space.lists is not None:
            centres, owner, probes = self.space.lists
            scanned = sorted(range(len(centres)), key=lambda n: (-product(centres[n], direction), n))[:probes]
            candidates = [u for u in candidates if owner[u] in scanned]
        near = sorted(candidates, key=lambda u: (-product(self.space.users[u], direction), u))  # type: ignore[union-attr]
        return near[: stored.shape[1]]

    def nearest(self, target: int, limit: int) -> list[Verdict]:
        if self.space is None or not self.space.items[target].any():
            return []
        table, latest = self.space.items, {item: n for n, (item, _) in enumerate(self.history)}
        known = [n for item, n in latest.items() if item != target and table[item].any()]
        known.sort(key=lambda n: (-product(table[self.history[n][0]], table[target]), -n))
        return [self.history[n] for n in known[:limit]]

    def retrieved(self, count: int) -> list[int]:
        """What a request with `retrieve` scores, in order."""
        if self.space is None or not (direction := self.folded()).any():
            return []
        met, table = {item for item, _ in self.history}, self.space.items
        others = [row for row in range(len(table)) if row not in met and table[row].any()]
        return sorted(others, key=lambda row: (-product(table[row], direction), row))[:count]

    def similar_liked(self, limit: int) -> list[Verdict]:
        similar, known, items = self.similar(), {item for item, _ in self.history}, []
        for user in similar:
            likes = [item for item, liked in reversed(self.visible(user)) if liked]
            new = [item for item in dict.fromkeys(likes) if item not in known and item not in items]
            items = [*items, *new[: math.ceil(limit / len(similar))]][:limit]
        return [(item, True) for item in items]

    def verdicts(self, target: int, limit: int) -> list[bool | None]:
        """What the nearest similar users last said of an item; None: nothing."""
        return [dict(self.visible(user)).get(target) for user in self.similar()[:limit]]

    def judged(self, op: dict[str, Any], target: int | None) -> list[bool]:
        """The verdicts that a rate or a count is of."""
        assert target is not None or op["op"].startswith("user_")
        match op["op"]:
            case "user_count" | "user_like_rate":
                return [liked for _, liked in self.history]
            case "item_count" | "item_like_rate":
                everybody = range(len(self.users["history_offsets"]) - 1)
                return [liked for user in everybody for item, liked in self.visible(user) if item == target]
            case "similar_like_rate":
                return [liked for liked in self.verdicts(target, op["limit"]) if liked is not None]  # type: ignore[arg-type]
            case "nearest_like_rate":
                return [liked for _, liked in self.nearest(target, op["limit"])]  # type: ignore[arg-type]
        raise ValueError(op)

    def pieces(self, op: dict[str, Any], target: int | None) -> list[int]:
        """An op's pieces, or the complements (~) of its tokens and vectors."""
        match op["op"]:
            case "piece":
                return [op["piece"]]
            case "user_field":
                return [op["missing"] if self.user is None else int(self.users[f"field.{op['field']}"][self.user])]
            case "item_field":
                return [int(self.items[f"field.{op['field']}"][target])]
            case "item_vector" | "user_vector":
                ids = self.catalog.vector_ids
                assert ids is not None
                if op["op"] == "user_vector":
                    return [~ids.user_id]
                count = ids.tables[op["table"]]
                return [~(ids.begins()[op["table"]] + target * count + j) for j in range(count)]  # type: ignore[operator]
            case "input":
                at = [entry.name for entry in self.catalog.inputs.entries].index(op["name"])
                codes = [~code if "pieces" not in op else op["pieces"][code] for code in self.codes[at]]
                return codes or [op["missing"]]
            case "history" if op["order"] == "recent":
                return self.entries(op, self.history[shown_from(len(self.history), op["limit"]) :])
            case "history":
                return self.entries(op, self.nearest(target, op["limit"]))  # type: ignore[arg-type]
            case "similar_liked":
                return self.entries(op, self.similar_liked(op["limit"]))
            case "similar_verdict":
                said = {None: op["unseen"], True: op["yes"], False: op["no"]}
                return [said[verdict] for verdict in self.verdicts(target, op["limit"])] or [op["unseen"]]  # type: ignore[arg-type]
        judged, bins = self.judged(op, target), op["bins"]
        if op["op"].endswith("_count"):
            return [bins[min(len(bins) - 1, len(judged).bit_length())]]
        return [bins[(sum(judged) + 1) * len(bins) // (len(judged) + 2)] if judged else op["missing"]]

    def entries(self, op: dict[str, Any], verdicts: Sequence[Verdict]) -> list[int]:
        pieces = []
        for item, liked in verdicts:
            for part in op["entry"]:
                pieces += [part["yes" if liked else "no"]] if part["op"] == "verdict" else self.pieces(part, item)
        return pieces if len(verdicts) else [op["empty"]]

    def tokens(self, part: str, target: int | None = None) -> list[int]:
        """The tokens of the prefix, or of a candidate."""
        offsets, tokens = self.catalog.piece_table["offsets"], self.catalog.piece_table["tokens"]
        pieces = [piece for op in self.prompt[part] for piece in self.pieces(op, target)]
        return [token for p in pieces for token in ([~p] if p < 0 else tokens[offsets[p] : offsets[p + 1]].tolist())]

    def numbers(self, target: int, score: float) -> list[float]:
        """What exit zero reads of a candidate."""
        numbers = []
        for op in self.prompt["numbers"]:
            if op["op"] in ("score", "gcn"):
                numbers.append(score if op["op"] == "score" else self.closeness(target))
                continue
            if op["op"].endswith("_cosine"):
                numbers.append(self.cosine(op, target))
                continue
            judged = self.judged(op, target)
            rate = (sum(judged) + 1) / (len(judged) + 2) if judged else math.nan
            numbers.append(len(judged) if op["op"].endswith("_count") else rate)
        return numbers

    def cosine(self, op: dict[str, Any], target: int) -> float:
        """With the mean of the vectors of all likes, or the largest with one of the latest `limit` of them."""
        table = self.items[f"vector.{op['column']}"]
        liked = [item for item, liked in self.history if liked and table[item].any()]
        if not liked or not table[target].any():
            return math.nan
        if op["op"] == "mean_cosine":
            mean = folded_in(table[liked])
            return product(table[target], mean) / math.sqrt(mean @ mean) if mean.any() else math.nan
        return max((product(table[target], table[item]) for item in liked[-op["limit"] :] if item != target), default=math.nan)

    def closeness(self, target: int) -> float:
        if self.space is None or not self.space.items[target].any() or not (direction := self.folded()).any():
            return math.nan
        return product(self.space.items[target], direction) / math.sqrt(direction @ direction)
