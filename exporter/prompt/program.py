"""The prompt program: a template compiled to the ops of docs/format.md, and the bounds of its length in tokens."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rexit.errors import InputError
from rexit.exporter.prompt.pieces import Pieces
from rexit.exporter.prompt.template import (
    ENTRY_NAMES,
    LISTS,
    NUMBERS,
    PROMPT_NAMES,
    RATES,
    RESERVED,
    SHARES,
    Nodes,
    Placeholder,
    Template,
    written,
)
from rexit.format.bundle.catalog import SCORE
from rexit.format.bundle.inputs import COLUMN as INPUT
from rexit.format.bundle.inputs import Input
from rexit.format.bundle.vectors import GCN, NOBODY, USER

TARGETS = ("item_field", "item_vector", "item_like_rate", "item_count", "similar_verdict", *SHARES)

LATEST_LIKES = 8
"""Items that a user liked last, with one of which exit zero's `max_cosine` is the largest."""

Op = dict[str, Any]
Lengths = NDArray[np.int64]  # tokens of each piece
Fields = Mapping[str, NDArray[np.int32]]  # the pieces of each row, by `user.NAME` and `item.NAME`


@dataclass
class Program:
    """A compiled template.

    prefix, candidate: ops. user_fields, item_fields: (column, whether a space precedes), by field.
    vectors: the tables of item vectors that the ops read, in the order of their ids. numbers: ops of exit zero.
    """

    prefix: list[Op] = field(default_factory=list)
    candidate: list[Op] = field(default_factory=list)
    user_fields: dict[str, tuple[str, bool]] = field(default_factory=dict)
    item_fields: dict[str, tuple[str, bool]] = field(default_factory=dict)
    vectors: list[str] = field(default_factory=list)
    numbers: list[Op] = field(default_factory=list)


def needs_target(op: Op) -> bool:
    """Whether an op depends on the target item. The first such op starts the candidate's part."""
    return op["op"] in TARGETS or op.get("order") == "nearest"


def compile_program(
    template: Template,
    user_columns: Sequence[str],
    item_columns: Sequence[str],
    pieces: Pieces,
    vectors: Collection[str] = (),
    inputs: Sequence[Input] = (),
) -> Program:
    """Compiles a template.

    Args:
        template: the template.
        user_columns, item_columns: names of the text columns.
        pieces: collects the template's texts.
        vectors: the columns that hold vectors, as `item.NAME` and `user.NAME`.
        inputs: those of the template, with their values.

    Raises:
        InputError: a placeholder is unknown or does not fit its column, a limit names no text, or the target item is missing.
    """
    program = Program()
    compiler = _Compiler(template, user_columns, item_columns, pieces, program, vectors, inputs)
    ops = compiler.ops(template.prompt, "prompt")
    if template.bos is not None:
        ops.insert(0, {"op": "piece", "piece": pieces.literal(template.bos)})
    first = next((n for n, op in enumerate(ops) if needs_target(op)), None)
    if first is None:
        raise InputError(f"{template.path}: prompt never names the target item: it needs a placeholder like {{item.title}}")
    program.prefix, program.candidate = ops[:first], ops[first:]
    of_items = [name.removeprefix("item.") for name in vectors if name.startswith("item.")]
    program.numbers = [op for number in template.numbers(of_items) for op in _number_ops(template, number, of_items)]
    columns = [f"{what}.{column}" for what in ("user", "item") for column, _ in getattr(program, f"{what}_fields").values()]
    for name in template.limits:
        if name in vectors:
            raise InputError(f"{template.path}: limits.{name}: the column holds vectors, which have no tokens to cut")
        if name not in columns:
            known = ", ".join(dict.fromkeys(columns)) or "none"
            raise InputError(f"{template.path}: limits.{name}: the template places no such column, it places: {known}")
    return program


def _number_ops(template: Template, number: Placeholder, vectors: Collection[str]) -> list[Op]:
    """What exit zero reads for an entry of its inputs. vectors: the columns of item vectors."""
    if number.name in NUMBERS:
        return [{"op": number.name.replace(".", "_"), **({"limit": number.limit} if number.limit else {})}]
    if number.name.startswith(SCORE):
        return [{"op": "score", "name": number.name.removeprefix(SCORE)}]
    if number.name not in vectors:
        known = f"{', '.join(NUMBERS)}, {SCORE}NAME, and columns of item vectors: {', '.join(vectors) or 'none'}"
        raise InputError(f"{template.path}: zero.inputs: unknown number {number.name!r}, known are: {known}")
    column = {"column": number.name}
    return [{"op": "mean_cosine", **column}, {"op": "max_cosine", **column, "limit": LATEST_LIKES}]


@dataclass
class _Compiler:
    template: Template
    user_columns: Sequence[str]
    item_columns: Sequence[str]
    pieces: Pieces
    program: Program
    vectors: Collection[str]
    inputs: Sequence[Input]

    def ops(self, nodes: Nodes, where: str) -> list[Op]:
        # The parser gives the space before a placeholder to it. Before a column of vectors it belongs to the text.
        spaced: list[str | Placeholder] = []
        for node in nodes:
            if isinstance(node, Placeholder) and node.spaced and node.name in self.vectors:
                text = spaced.pop() if spaced and isinstance(spaced[-1], str) else ""
                spaced += [f"{text} ", replace(node, spaced=False)]
            else:
                spaced.append(node)
        return [self.op(node, where) for node in spaced]

    def op(self, node: str | Placeholder, where: str) -> Op:
        if isinstance(node, str):
            return {"op": "piece", "piece": self.pieces.literal(node)}
        table, _, column = node.name.partition(".")
        space = " " if node.spaced else ""
        if node.name == "verdict":
            return {"op": "verdict", "yes": self._word("liked"), "no": self._word("disliked")}
        if node.name == "item.gcn":
            return self._item_vector(GCN)
        if node.name == "user.gcn":
            return {"op": "user_vector"}
        if node.name in self.vectors:
            return self._column_of_vectors(node, column, where)
        if table == "item" and column in self.item_columns and node.name not in RESERVED:
            if node.limit:
                self.program.item_fields[column] = (column, False)  # the source of the vectors
                return self._item_vector(f"{column}:{node.limit}")
            self.program.item_fields[space + column] = (column, node.spaced)
            return {"op": "item_field", "field": space + column}
        if table == "user" and column in self.user_columns and node.name not in RESERVED:
            self.program.user_fields[space + column] = (column, node.spaced)
            return {"op": "user_field", "field": space + column, "missing": self._missing(node)}
        if node.name in RATES:
            texts = (count_texts if column == "count" else rate_texts)(self.template.bins[column])
            op: Op = {"op": f"{table}_{column}", "bins": [self.pieces.literal(space + text) for text in texts]}
            return op if column == "count" else {**op, "missing": self._missing(node)}
        if node.name in LISTS:
            return self._list(node)
        if node.name.startswith(INPUT):
            return self._input(node)
        if node.name in SHARES:
            bins = [self.pieces.literal(space + text) for text in rate_texts(self.template.bins["like_rate"])]
            return {"op": node.name, "limit": node.limit, "bins": bins, "missing": self._missing(node)}
        raise self._unknown(node, where)

    def _item_vector(self, table: str) -> Op:
        if table not in self.program.vectors:
            self.program.vectors.append(table)
        return {"op": "item_vector", "table": table}

    def _column_of_vectors(self, node: Placeholder, column: str, where: str) -> Op:
        problem = None
        if node.name.startswith("user."):
            problem = "the column holds vectors, which only items can have"
        elif node.limit:
            problem = f"the column holds a vector of each item, which is placed as one: {{{node.name}}}"
        elif column in (USER, NOBODY):
            problem = "that name is of the user's vectors: rename the column"
        if problem:
            raise InputError(f"{self.template.path}: {where}: {node}: {problem}")
        return self._item_vector(column)

    def _list(self, node: Placeholder) -> Op:
        if node.name == "similar_verdict":
            words = {"yes": "liked", "no": "disliked", "unseen": "unseen"}
            return {"op": node.name, "limit": node.limit, **{key: self._word(word) for key, word in words.items()}}
        kind, _, order = node.name.partition(".")
        entry = self.ops(self.template.entries[node.name], "entry")
        op: Op = {"op": kind, "limit": node.limit, "entry": entry, "empty": self._word("empty")}
        return {**op, "order": order} if order else op

    def _input(self, node: Placeholder) -> Op:
        names = [rule.name for rule in self.template.inputs]
        at = names.index(node.name.removeprefix(INPUT))
        rule, entry = self.template.inputs[at], self.inputs[at]
        op: Op = {"op": "input", "name": entry.name}
        if entry.encoder.texts is not None:
            spaced = node.spaced and not entry.spaced  # then the texts of its codes say where the space is
            op["pieces"] = [self.pieces.literal(written(text, spaced)) for text in rule.words or entry.encoder.texts]
        if rule.missing is not None:
            op["missing"] = self.pieces.literal(written(rule.missing, node.spaced) if rule.missing else "")
        return op

    def _word(self, name: str) -> int:
        return self.pieces.literal(self.template.words[name])

    def _missing(self, node: Placeholder) -> int:
        return self.pieces.literal(written(self.template.words["missing"], node.spaced))

    def _unknown(self, node: Placeholder, where: str) -> InputError:
        columns = [f"user.{c}" for c in self.user_columns] if where == "prompt" else []
        columns += [f"item.{c}" for c in self.item_columns]
        known = [name for name in columns if name not in RESERVED] + [n for n in self.vectors if n.startswith("item.")]
        known += PROMPT_NAMES[2:] if where == "prompt" else ENTRY_NAMES[1:]
        return InputError(f"{self.template.path}: {where}: unknown placeholder {node}, known are: {', '.join(known)}")


def rate_texts(bins: int) -> list[str]:
    """The texts of like-rate bins, their lower edges: `0%`, `5%`, …"""
    return [f"{100 * b // bins}%" for b in range(bins)]


def count_texts(bins: int) -> list[str]:
    """The texts of count bins: `0`, then the power of two at or below the count, `2^0`, `2^1`, …"""
    return ["0", *(f"2^{b - 1}" for b in range(1, bins))]


def vector_count(table: str) -> int:
    """Vectors per item in a table, from its name: `title:2` has two, `gcn` and a column of vectors one."""
    return int(table.rpartition(":")[2]) if ":" in table else 1


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
        case "item_vector":
            return f"{{item.{op['table']}}}"
        case "input":
            return f"{{{INPUT}{op['name']}}}"
        case "user_vector":
            return "{user.gcn}"
    return f"{{{kind[:4]}.{kind[5:]}}}"


def longest(ops: Sequence[Op], lengths: Lengths, fields: Fields, inputs: Sequence[Input] = ()) -> tuple[Op, int]:
    """The op that can append the most tokens, and their number."""
    most = [_bounds(op, lengths, fields, inputs)[1] for op in ops]
    return ops[most.index(max(most))], max(most)


def bounds(ops: Sequence[Op], lengths: Lengths, fields: Fields, inputs: Sequence[Input] = ()) -> tuple[int, int]:
    """The fewest and the most tokens `ops` can append."""
    low = high = 0
    for op in ops:
        a, b = _bounds(op, lengths, fields, inputs)
        low, high = low + a, high + b
    return low, high


def _bounds(op: Op, lengths: Lengths, fields: Fields, inputs: Sequence[Input]) -> tuple[int, int]:
    kind = op["op"]
    if kind in ("item_vector", "user_vector"):
        count = vector_count(op["table"]) if kind == "item_vector" else 1
        return count, count
    if kind in ("history", "similar_liked"):
        low, high = bounds(op["entry"], lengths, fields)
        empty = int(lengths[op["empty"]])
        return min(low, empty), max(high * op["limit"], empty)
    if kind == "similar_verdict":
        words = [int(lengths[op[key]]) for key in ("yes", "no", "unseen")]
        return min(words), op["limit"] * max(words)
    if kind == "input":
        most = next(entry.encoder.max_codes for entry in inputs if entry.name == op["name"])
        code = [int(lengths[piece]) for piece in op["pieces"]] if "pieces" in op else [1]
        missing = [int(lengths[op["missing"]])] if "missing" in op else []
        return min([*code, *missing]), max([max(code) * most, *missing])
    pieces = [op[key] for key in ("piece", "missing", "yes", "no") if key in op]
    pieces += op.get("bins", [])
    if kind in ("user_field", "item_field"):
        pieces = [*np.unique(fields[f"{kind[:4]}.{op['field']}"]), *pieces]
    return int(min(lengths[p] for p in pieces)), int(max(lengths[p] for p in pieces))
