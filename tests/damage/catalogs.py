"""What catalog.json says: the prompt program, inputs; and how long prompts get."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from builders.bundles.bundle_files import refresh
from builders.bundles.catalog import PROGRAM
from damage.table import CATALOG, ITEMS, PIECES, RUNNING_ITEMS, Row, case, change_json, table

TEXT = {"op": "piece", "piece": 0}


def row(name: str, names: str, at: dict[str, Any], status: str = "CORRUPT", found: str = "opening") -> Row:
    return Row(name, status, names, CATALOG, at, found)


DEVICE: dict[str, Any] = {"name": "device", "values": ["tv", "phone"], "optional": True}
QUERY: dict[str, Any] = {"name": "query", "max_tokens": 6, "spaced": True, "optional": True}
PLACED_DEVICE: dict[str, Any] = {"op": "input", "name": "device", "pieces": [2, 3], "missing": 1}
PLACED_QUERY: dict[str, Any] = {"op": "input", "name": "query", "missing": 1}


def inputs(
    name: str, names: str, entry: dict[str, Any], op: dict[str, Any], status: str = "CORRUPT", found: str = "opening"
) -> Row:
    """A bundle with an input and an op that places it."""
    return row(name, names, {"/prompt/inputs": [entry], "/prompt/prefix/-": op}, status, found=found)


def device(name: str, names: str, **changes: Any) -> Row:
    """changes: of the input."""
    return inputs(name, names, DEVICE | changes, PLACED_DEVICE)


def device_op(name: str, names: str, op: dict[str, Any]) -> Row:
    return inputs(name, names, DEVICE, op)


def query(name: str, names: str, **changes: Any) -> Row:
    return inputs(name, names, QUERY | changes, PLACED_QUERY)


def bins(name: str, edges: list[float]) -> Row:
    entry = {"name": "device", "bins": edges, "optional": True}
    return inputs(name, "bins: expected 2 to 4097 ascending numbers", entry, PLACED_DEVICE)


def digits(name: str, names: str, count: float, status: str = "CORRUPT", found: str = "opening", **changes: Any) -> Row:
    """changes: of the input."""
    entry = {"name": "device", "digits": count, "optional": True, **changes}
    return inputs(name, names, entry, {**PLACED_DEVICE, "pieces": list(range(11))}, status, found)


def without(op: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in op.items() if name != key}


def entry_of(op: dict[str, Any]) -> dict[str, Any]:
    """A list whose entries consist of an op."""
    return {"op": "similar_liked", "limit": 1, "empty": 1, "entry": [op]}


PREFIX_WITH_START: list[dict[str, Any]] = [*({"op": "piece", "piece": n} for n in (0, 3, 4, 9, 0, 3, 1)), *PROGRAM["prefix"][1:]]
"""Everybody's prefix begins with the same eleven tokens, one of its pieces being empty."""

CASES = table(
    row("more_users_than_rows_can_count", "users", {"/counts/users": 1 << 40}),
    row("unknown_kind_of_id", "ids", {"/ids/user": "uuid"}),
    row("sound_with_start", "", {"/prompt/prefix": PREFIX_WITH_START}, "OK", found="running"),
    row("unknown_op", "horoscope", {"/prompt/prefix/0": {"op": "horoscope"}}, "UNSUPPORTED"),
    row("vector_among_tokens", "op `item_vector`, which", {"/prompt/candidate/0": {"op": "item_vector"}}, "UNSUPPORTED"),
    row("piece_out_of_range", "prefix[0] piece", {"/prompt/prefix/0/piece": 40}),
    row("op_without_its_field", "missing", {"/prompt/prefix/1": {"op": "user_field", "field": "age"}}),
    row("field_that_is_not_there", "shoe_size", {"/prompt/prefix/1/field": "shoe_size"}),
    row("rate_without_bins", "bins", {"/prompt/prefix/2/bins": []}),
    row("target_item_in_the_prefix", "target item", {"/prompt/prefix/0": {"op": "item_field", "field": "title"}}),
    row("verdict_outside_an_entry", "verdict", {"/prompt/candidate/0": {"op": "verdict", "yes": 1, "no": 2}}),
    row("list_inside_a_list", "inside an `entry`", {"/prompt/prefix/4/entry": [entry_of(TEXT) | {"entry": []}]}),
    row("endless_history", "limit", {"/prompt/prefix/4/limit": 1 << 40}),
    row(
        "candidates_without_a_token", "no tokens for item", {"/prompt/candidate": [{"op": "piece", "piece": 4}]}, found="running"
    ),
    row("list_without_an_entry", "entry: is empty", {"/prompt/prefix/4/entry": []}),
    # Four entries of 20,000 pieces: no token ever comes that the limit could stop.
    row(
        "entries_without_a_token_that_never_end",
        "more than 65536 pieces without a token into the prefix",
        {"/prompt/prefix/4/entry": [{"op": "piece", "piece": 4}] * 20_000},
        found="running",
    ),
    row(
        "prompts_said_to_be_endless",
        "",
        {"/prompt/max_prefix_tokens": (1 << 31) - 1, "/prompt/max_candidate_tokens": (1 << 31) - 1},
        "OK",
        found="running",
    ),
    row("prompts_said_to_take_gigabytes", "", {"/prompt/max_prefix_tokens": 1 << 26}, "OK", found="running"),
    # A request without these inputs gets what is in place of a missing one.
    inputs("sound_input", "", DEVICE, PLACED_DEVICE, "OK", "running"),
    inputs("sound_text", "", QUERY, PLACED_QUERY, "OK", "running"),
    row(
        "sound_text_in_two_places",
        "",
        {"/prompt/inputs": [QUERY], "/prompt/prefix/-": PLACED_QUERY, "/prompt/candidate/-": PLACED_QUERY},
        "OK",
        found="running",
    ),
    inputs(
        "input_that_the_request_lacks",
        "inputs.device is missing, expected one of tv, phone",
        without(DEVICE, "optional"),
        without(PLACED_DEVICE, "missing"),
        "INVALID_ARGUMENT",
        "running",
    ),
    inputs(
        "text_that_the_request_lacks",
        "inputs.query is missing, expected at most 6 tokens",
        without(QUERY, "optional"),
        without(PLACED_QUERY, "missing"),
        "INVALID_ARGUMENT",
        "running",
    ),
    device_op("op_of_an_unknown_input", "`shoe` is not one of the prompt's `inputs`", {**PLACED_DEVICE, "name": "shoe"}),
    row("input_that_no_op_places", "inputs: no op places `device`", {"/prompt/inputs": [DEVICE]}),
    row(
        "inputs_in_another_order_than_their_places",
        "places `query` before `device`",
        {"/prompt/inputs": [DEVICE, QUERY], "/prompt/prefix/-": PLACED_QUERY, "/prompt/candidate/-": PLACED_DEVICE},
    ),
    row(
        "two_inputs_of_one_name",
        "name: `device` is taken",
        {"/prompt/inputs": [DEVICE, DEVICE], "/prompt/prefix/-": PLACED_DEVICE},
    ),
    inputs("input_without_a_name", "name: is ", {**DEVICE, "name": ""}, {**PLACED_DEVICE, "name": ""}),
    device("values_and_bins", "expected one of `values`, `bins`, `digits` and `max_tokens`", bins=[0, 1, 2]),
    inputs(
        "input_of_no_kind",
        "expected one of `values`, `bins`, `digits` and `max_tokens`",
        without(DEVICE, "values"),
        PLACED_DEVICE,
    ),
    device("spaced_values", "`spaced`", spaced=True),
    device("value_listed_twice", "`tv` appears twice", values=["tv", "tv"]),
    bins("bins_out_of_order", [0, 2, 1]),
    bins("a_single_edge", [0]),
    digits("sound_digits", "", 3, "OK", "running"),
    digits("number_of_no_digits", "digits: is 0", 0),
    digits("number_of_too_many_digits", "digits: is 10", 10),
    digits("digits_in_bins", "expected one of `values`, `bins`, `digits` and `max_tokens`", 3, bins=[0, 1]),
    digits("spaced_digits_without_their_pieces", "pieces: has 11, expected 21", 3, spaced=True),
    query("text_of_no_tokens", "max_tokens: is 0", max_tokens=0),
    query("text_of_too_many_tokens", "max_tokens: is 4097", max_tokens=4097),
    device_op("op_without_pieces", "`pieces` is missing", without(PLACED_DEVICE, "pieces")),
    device_op("op_with_too_few_pieces", "pieces: has 1, expected 2", {**PLACED_DEVICE, "pieces": [2]}),
    device_op("input_beyond_the_pieces", "pieces[1]", {**PLACED_DEVICE, "pieces": [2, 1 << 20]}),
    device_op("optional_input_without_its_word", "`missing` is missing", without(PLACED_DEVICE, "missing")),
    inputs("required_input_with_a_word", "`missing`", without(DEVICE, "optional"), PLACED_DEVICE),
    inputs("text_with_pieces", "`pieces`", QUERY, {**PLACED_QUERY, "pieces": [2]}),
    device_op("input_inside_an_entry", "inside an `entry`", entry_of(PLACED_DEVICE)),
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
