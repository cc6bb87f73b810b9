"""What catalog.json says: the prompt program, contexts, request texts, vectors; and how long prompts get."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from builders.bundles.bundle_files import refresh
from builders.bundles.catalog import PROGRAM
from damage.table import CATALOG, ITEMS, PIECES, RUNNING_ITEMS, Row, case, change_json, table

TEXT = {"op": "piece", "piece": 0}


def row(name: str, status: str, names: str, at: dict[str, Any], found: str = "opening") -> Row:
    return Row(name, status, names, CATALOG, at, found)


DEVICE: dict[str, Any] = {"name": "device", "values": ["tv", "phone"], "unknown": "missing"}
CONTEXT: dict[str, Any] = {"op": "context", "name": "device", "values": [2, 3], "missing": 1}
WITH_CONTEXT = {"/requires": ["context"], "/prompt/context": [DEVICE], "/prompt/prefix/-": CONTEXT}
"""Makes of a bundle that has no contexts one that has one."""
REQUEST: dict[str, Any] = {"op": "request", "name": "query", "limit": 6, "spaced": True, "missing": 1}
REQUIRED_REQUEST = {name: value for name, value in REQUEST.items() if name != "missing"}
WITH_REQUEST = {"/requires": ["request-text"], "/prompt/prefix/-": REQUEST}
"""The same for request texts."""


def context(name: str, names: str, status: str = "CORRUPT", found: str = "opening", **changes: Any) -> Row:
    """changes: of the context."""
    return row(name, status, names, {**WITH_CONTEXT, "/prompt/context": [DEVICE | changes]}, found)


def context_op(name: str, names: str, op: dict[str, Any]) -> Row:
    return row(name, "CORRUPT", names, {**WITH_CONTEXT, "/prompt/prefix/-": op})


def request_op(name: str, names: str, op: dict[str, Any], status: str = "CORRUPT", found: str = "opening") -> Row:
    return row(name, status, names, {**WITH_REQUEST, "/prompt/prefix/-": op}, found)


def two_requests(name: str, names: str, second: dict[str, Any], status: str = "CORRUPT", found: str = "opening") -> Row:
    return row(name, status, names, {**WITH_REQUEST, "/prompt/prefix": [*PROGRAM["prefix"], REQUEST, second]}, found)


def entry_of(op: dict[str, Any]) -> dict[str, Any]:
    """A list whose entries consist of an op."""
    return {"op": "similar_liked", "limit": 1, "empty": 1, "entry": [op]}


PREFIX_WITH_START: list[dict[str, Any]] = [*({"op": "piece", "piece": n} for n in (0, 3, 4, 9, 0, 3, 1)), *PROGRAM["prefix"][1:]]
"""Everybody's prefix begins with the same eleven tokens, one of its pieces being empty."""

CASES = table(
    row("more_users_than_rows_can_count", "CORRUPT", "users", {"/counts/users": 1 << 40}),
    row("unknown_kind_of_id", "CORRUPT", "ids", {"/ids/user": "uuid"}),
    row("sound_with_start", "OK", "", {"/prompt/prefix": PREFIX_WITH_START}, "running"),
    row("unknown_op", "UNSUPPORTED", "horoscope", {"/prompt/prefix/0": {"op": "horoscope"}}),
    row("piece_out_of_range", "CORRUPT", "prefix[0] piece", {"/prompt/prefix/0/piece": 40}),
    row("op_without_its_field", "CORRUPT", "missing", {"/prompt/prefix/1": {"op": "user_field", "field": "age"}}),
    row("field_that_is_not_there", "CORRUPT", "shoe_size", {"/prompt/prefix/1/field": "shoe_size"}),
    row("rate_without_bins", "CORRUPT", "bins", {"/prompt/prefix/2/bins": []}),
    row("target_item_in_the_prefix", "CORRUPT", "target item", {"/prompt/prefix/0": {"op": "item_field", "field": "title"}}),
    row("verdict_outside_an_entry", "CORRUPT", "verdict", {"/prompt/candidate/0": {"op": "verdict", "yes": 1, "no": 2}}),
    row("list_inside_a_list", "CORRUPT", "inside an `entry`", {"/prompt/prefix/4/entry": [entry_of(TEXT) | {"entry": []}]}),
    row("endless_history", "CORRUPT", "limit", {"/prompt/prefix/4/limit": 1 << 40}),
    row("list_without_an_entry", "CORRUPT", "entry: is empty", {"/prompt/prefix/4/entry": []}),
    # Four entries of 20,000 pieces: no token ever comes that the limit could stop.
    row(
        "entries_without_a_token_that_never_end",
        "CORRUPT",
        "more than 65536 pieces without a token into the prefix",
        {"/prompt/prefix/4/entry": [{"op": "piece", "piece": 4}] * 20_000},
        "running",
    ),
    row(
        "prompts_said_to_be_endless",
        "OK",
        "",
        {"/prompt/max_prefix_tokens": (1 << 31) - 1, "/prompt/max_candidate_tokens": (1 << 31) - 1},
        "running",
    ),
    row("prompts_said_to_take_gigabytes", "OK", "", {"/prompt/max_prefix_tokens": 1 << 26}, "running"),
    # Contexts; a request without one gets words.missing.
    row("sound_context", "OK", "", WITH_CONTEXT, "running"),
    context(
        "context_that_the_request_lacks",
        "context 'device' is missing, expected one of tv, phone",
        "INVALID_ARGUMENT",
        "running",
        unknown="refuse",
    ),
    row("context_that_is_not_required", "CORRUPT", "requires: lacks `context`", {**WITH_CONTEXT, "/requires": []}),
    context_op("op_of_an_unknown_context", "`shoe` is not one of the prompt's `context`", {**CONTEXT, "name": "shoe"}),
    row(
        "context_that_no_op_places",
        "CORRUPT",
        "context: no op places `hour`",
        {**WITH_CONTEXT, "/prompt/context": [DEVICE, {"name": "hour", "bins": [0, 24], "unknown": "refuse"}]},
    ),
    row("two_contexts_of_one_name", "CORRUPT", "name: `device` is taken", {**WITH_CONTEXT, "/prompt/context": [DEVICE, DEVICE]}),
    context_op("op_with_too_few_values", "values: has 1, expected 2", {**CONTEXT, "values": [2]}),
    context_op("value_beyond_the_pieces", "values[1]", {**CONTEXT, "values": [2, 1 << 20]}),
    context_op("op_without_the_missing_word", "missing", {k: v for k, v in CONTEXT.items() if k != "missing"}),
    context("unknown_rule_for_unknown_values", "expected `refuse` or `missing`", unknown="guess"),
    context("values_and_bins", "expected either `values` or `bins`", bins=[0, 1, 2]),
    context("value_listed_twice", "`tv` appears twice", values=["tv", "tv"]),
    row(
        "bins_out_of_order",
        "CORRUPT",
        "bins: expected 2 to 4097 ascending numbers",
        {**WITH_CONTEXT, "/prompt/context": [{"name": "device", "bins": [0, 2, 1], "unknown": "missing"}]},
    ),
    row(
        "a_single_edge",
        "CORRUPT",
        "bins: expected 2 to 4097 ascending numbers",
        {**WITH_CONTEXT, "/prompt/context": [{"name": "device", "bins": [0], "unknown": "missing"}]},
    ),
    context_op("context_inside_an_entry", "inside an `entry`", entry_of(CONTEXT)),
    # Request texts; a request without one gets the template's word.
    two_requests("sound_request_text", "", REQUEST, "OK", "running"),
    request_op(
        "request_text_that_the_request_lacks",
        "request text 'query' is missing, expected at most 6 tokens",
        REQUIRED_REQUEST,
        "INVALID_ARGUMENT",
        "running",
    ),
    row("request_text_that_is_not_required", "CORRUPT", "requires: lacks `request-text`", {**WITH_REQUEST, "/requires": []}),
    row("request_text_that_no_op_places", "CORRUPT", "requires: holds `request-text`", {"/requires": ["request-text"]}),
    two_requests("two_limits_of_one_text", "by other rules than an op before it", {**REQUEST, "limit": 7}),
    two_requests("text_that_is_required_in_one_place", "by other rules than an op before it", REQUIRED_REQUEST),
    request_op("text_without_a_limit", "limit", {k: v for k, v in REQUEST.items() if k != "limit"}),
    request_op("text_of_no_tokens", "limit", {**REQUEST, "limit": 0}),
    request_op("text_of_too_many_tokens", "limit", {**REQUEST, "limit": 4097}),
    request_op("text_without_a_name", "name: is ", {**REQUEST, "name": ""}),
    request_op("word_beyond_the_pieces", "missing", {**REQUEST, "missing": 1 << 20}),
    request_op("text_inside_an_entry", "inside an `entry`", entry_of(REQUEST)),
)


def lengthen_piece(folder: Path, piece: int, tokens: int) -> None:
    tables = load_file(folder / PIECES)
    offsets = tables["offsets"]
    tables["tokens"] = np.insert(tables["tokens"], offsets[piece + 1], np.zeros(tokens, np.int32))
    offsets[piece + 1 :] += tokens
    save_file(tables, folder / PIECES)


@case("TOO_LONG", "the prefix is longer than 96 tokens", "running")
def small_pieces_that_make_a_huge_prefix(folder: Path) -> None:
    lengthen_piece(folder, 0, 1 << 20)
    change_json(folder, CATALOG, {"/prompt/prefix": [TEXT] * 500})
    refresh(folder)


@case("TOO_LONG", "candidate 1's prompt is longer than 96 tokens", "running")
def small_pieces_that_make_a_huge_candidate(folder: Path) -> None:
    title = int(load_file(folder / ITEMS)["field.title"][RUNNING_ITEMS[1]])
    assert title not in load_file(folder / ITEMS)["field.title"][: RUNNING_ITEMS[1]]
    lengthen_piece(folder, title, 1 << 20)
    change_json(folder, CATALOG, {"/prompt/prefix": [TEXT], "/prompt/candidate": [{"op": "item_field", "field": "title"}] * 30})
    refresh(folder)


CASES |= table(small_pieces_that_make_a_huge_prefix, small_pieces_that_make_a_huge_candidate)
