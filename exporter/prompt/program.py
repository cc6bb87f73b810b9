"""The token program: a template compiled to the ops of docs/format.md, with the columns they need and their bounds in tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rexit.errors import InputError
from rexit.exporter.prompt.pieces import Pieces
from rexit.exporter.prompt.template import LISTS, RATES, SHARES, Placeholder, Template, written

TARGETS = ("item_field", "item_like_rate", "item_count", "similar_verdict", *SHARES)

Op = dict[str, Any]
Lengths = NDArray[np.int64]  # tokens of each piece
Fields = Mapping[str, NDArray[np.int32]]  # `user.NAME` and `item.NAME` to the rows' pieces


@dataclass
class Program:
    """`prefix` and `candidate` ops. `user_fields` and `item_fields` map a field's name to (column, whether a space precedes)."""

    prefix: list[Op] = field(default_factory=list)
    candidate: list[Op] = field(default_factory=list)
    user_fields: dict[str, tuple[str, bool]] = field(default_factory=dict)
    item_fields: dict[str, tuple[str, bool]] = field(default_factory=dict)


def needs_target(op: Op) -> bool:
    """Whether an op depends on the target item. The first such op begins the candidate's part."""
    return op["op"] in TARGETS or op.get("order") == "nearest"


def compile_program(template: Template, user_columns: Sequence[str], item_columns: Sequence[str], pieces: Pieces) -> Program:
    """Raises InputError for a placeholder that is unknown, a limit of no placeholder, or a template without the target item."""
    program = Program()
    compiler = _Compiler(template, user_columns, item_columns, pieces, program)
    ops = [compiler.op(node, "prompt") for node in template.prompt]
    if template.bos is not None:
        ops.insert(0, {"op": "piece", "piece": pieces.literal(template.bos)})
    first = next((n for n, op in enumerate(ops) if needs_target(op)), None)
    if first is None:
        raise InputError(f"{template.path}: prompt never names the target item: it needs a placeholder like {{item.title}}")
    program.prefix, program.candidate = ops[:first], ops[first:]
    columns = [f"{what}.{column}" for what in ("user", "item") for column, _ in getattr(program, f"{what}_fields").values()]
    for name in template.limits:
        if name not in columns:
            known = ", ".join(dict.fromkeys(columns)) or "none"
            raise InputError(f"{template.path}: limits.{name}: the template places no such column, it places: {known}")
    return program


@dataclass
class _Compiler:
    template: Template
    user_columns: Sequence[str]
    item_columns: Sequence[str]
    pieces: Pieces
    program: Program

    def op(self, node: str | Placeholder, where: str) -> Op:
        if isinstance(node, str):
            return {"op": "piece", "piece": self.pieces.literal(node)}
        table, _, column = node.name.partition(".")
        space = " " if node.spaced else ""
        inside = where != "prompt"
        if node.name == "verdict" and inside:
            return {"op": "verdict", "yes": self._word("liked"), "no": self._word("disliked")}
        if table == "item" and column in self.item_columns and node.name not in RATES:
            self.program.item_fields[space + column] = (column, node.spaced)
            return {"op": "item_field", "field": space + column}
        if not inside and table == "user" and column in self.user_columns and node.name not in RATES:
            self.program.user_fields[space + column] = (column, node.spaced)
            return {"op": "user_field", "field": space + column, "missing": self._missing(node)}
        if not inside and node.name in RATES:
            texts = (count_texts if column == "count" else rate_texts)(self.template.bins[column])
            op: Op = {"op": f"{table}_{column}", "bins": [self.pieces.literal(space + text) for text in texts]}
            return op if column == "count" else {**op, "missing": self._missing(node)}
        if not inside and node.name in LISTS:
            return self._list(node)
        if not inside and node.name in SHARES:
            bins = [self.pieces.literal(space + text) for text in rate_texts(self.template.bins["like_rate"])]
            return {"op": node.name, "limit": node.limit, "bins": bins, "missing": self._missing(node)}
        raise self._unknown(node, where)

    def _list(self, node: Placeholder) -> Op:
        if node.name == "similar_verdict":
            words = {"yes": "liked", "no": "disliked", "unseen": "unseen"}
            return {"op": node.name, "limit": node.limit, **{key: self._word(word) for key, word in words.items()}}
        kind, _, order = node.name.partition(".")
        entry = [self.op(part, "entry") for part in self.template.entries[node.name]]
        op: Op = {"op": kind, "limit": node.limit, "entry": entry, "empty": self._word("empty")}
        return {**op, "order": order} if order else op

    def _word(self, name: str) -> int:
        return self.pieces.literal(self.template.words[name])

    def _missing(self, node: Placeholder) -> int:
        return self.pieces.literal(written(self.template.words["missing"], node.spaced))

    def _unknown(self, node: Placeholder, where: str) -> InputError:
        known = [f"item.{c}" for c in self.item_columns if f"item.{c}" not in RATES]
        if where == "prompt":
            known = [*(f"user.{c}" for c in self.user_columns if f"user.{c}" not in RATES), *known, *RATES, *LISTS, *SHARES]
        else:
            known = [*known, "verdict"]
        return InputError(f"{self.template.path}: {where}: unknown placeholder {node}, known are: {', '.join(known)}")


def rate_texts(bins: int) -> list[str]:
    """How like-rate bins are written: the lower edge, `0%`, `5%`, …"""
    return [f"{100 * b // bins}%" for b in range(bins)]


def count_texts(bins: int) -> list[str]:
    """How count bins are written: `0`, then the power of two at or below the count, `2^0`, `2^1`, `2^2`, …"""
    return ["0", *(f"2^{b - 1}" for b in range(1, bins))]


def placeholder(op: Op) -> str | None:
    """The placeholder an op was compiled from; None for the template's own text."""
    kind = op["op"]
    match kind:
        case "piece":
            return None
        case "user_field" | "item_field":
            return f"{{{kind[:4]}.{op['field'].removeprefix(' ')}}}"
        case "history":
            return f"{{history.{op['order']}:{op['limit']}}}"
        case "similar_liked" | "similar_verdict" | "similar_like_rate" | "nearest_like_rate":
            return f"{{{kind}:{op['limit']}}}"
        case "verdict":
            return "{verdict}"
    return f"{{{kind[:4]}.{kind[5:]}}}"


def longest(ops: Sequence[Op], lengths: Lengths, fields: Fields) -> tuple[Op, int]:
    """The one of `ops` that can append the most tokens, and how many."""
    most = [_bounds(op, lengths, fields)[1] for op in ops]
    return ops[most.index(max(most))], max(most)


def bounds(ops: Sequence[Op], lengths: Lengths, fields: Fields) -> tuple[int, int]:
    """The fewest and the most tokens `ops` can append."""
    low = high = 0
    for op in ops:
        a, b = _bounds(op, lengths, fields)
        low, high = low + a, high + b
    return low, high


def _bounds(op: Op, lengths: Lengths, fields: Fields) -> tuple[int, int]:
    kind = op["op"]
    if kind in ("history", "similar_liked"):
        low, high = bounds(op["entry"], lengths, fields)
        empty = int(lengths[op["empty"]])
        return min(low, empty), max(high * op["limit"], empty)
    if kind == "similar_verdict":
        words = [int(lengths[op[key]]) for key in ("yes", "no", "unseen")]
        return min(words), op["limit"] * max(words)
    pieces = [op[key] for key in ("piece", "missing", "yes", "no") if key in op] + op.get("bins", [])
    if kind in ("user_field", "item_field"):
        pieces = [*np.unique(fields[f"{kind[:4]}.{op['field']}"]), *pieces]
    return int(min(lengths[p] for p in pieces)), int(max(lengths[p] for p in pieces))
