"""Damage to a bundle, one function each, with the status it must end in and what the message must name.

`write_attacks(folder)` makes a damaged bundle for each, with the expectation beside it, for the C++ tests.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from safetensors.numpy import load_file, save_file

import tiny_bundle

Damage = Callable[[Path], None]
ATTACKS: dict[str, tuple[Damage, str, str, str]] = {}
"""Name to: what is done to the bundle, status, what the message names, and when: `opening` the bundle or `running` a slate.
What is said to end in OK must do no harm."""

MANIFEST, CATALOG, VARIANT = "manifest.json", "catalog/catalog.json", "variants/cpu-fp32/variant.json"
USERS, ITEMS, PIECES = (f"catalog/{name}.safetensors" for name in ("users", "items", "pieces"))
SEGMENT = "variants/cpu-fp32/segment-1.onnx"
RUNNING_USER, RUNNING_ITEMS = 2, (0, 5)
"""Rows of the slate that is run; tests/cpp/test_attacks.cpp has their ids."""


def attack(status: str, names: str = "", found: str = "opening") -> Callable[[Damage], Damage]:
    def register(damage: Damage) -> Damage:
        ATTACKS[damage.__name__] = (damage, f"REXIT_{status}", names, found)
        return damage

    return register


def edit_json(folder: Path, name: str, *keys: str | int, to: Any, sealed: bool = True) -> None:
    """Replaces the value at a path of keys; `sealed`: sizes and digests are made to fit."""
    value = json.loads((folder / name).read_text())
    at = value
    for key in keys[:-1]:
        at = at[key]
    at[keys[-1]] = to
    tiny_bundle.write_json(folder / name, value)
    if sealed:
        tiny_bundle.refresh(folder)


def edit_table(folder: Path, name: str, tensor: str, edit: Callable[[Any], Any]) -> None:
    tables = load_file(folder / name)
    changed = edit(tables[tensor].copy())
    if changed is None:
        del tables[tensor]
    else:
        tables[tensor] = changed
    save_file(tables, folder / name)
    tiny_bundle.refresh(folder)


def put(index: int, value: Any) -> Callable[[Any], Any]:
    def edit(array: Any) -> Any:
        array[index] = value
        return array

    return edit


def edit_graph(folder: Path, edit: Callable[[Any], None]) -> None:
    model = onnx.load(folder / SEGMENT, load_external_data=False)
    edit(model.graph)
    onnx.save(model, folder / SEGMENT)
    tiny_bundle.refresh(folder)


# Files


@attack("NOT_FOUND", "manifest.json")
def missing_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()


@attack("NOT_FOUND", "segment-1.onnx")
def missing_segment(folder: Path) -> None:
    (folder / SEGMENT).unlink()


@attack("NOT_FOUND", "users.safetensors")
def missing_table(folder: Path) -> None:
    (folder / USERS).unlink()


@attack("CORRUPT", "items.safetensors")
def truncated_table(folder: Path) -> None:
    os.truncate(folder / ITEMS, (folder / ITEMS).stat().st_size - 1)


@attack("CORRUPT", "segment-1.onnx.data")
def grown_weights(folder: Path) -> None:
    with open(folder / f"{SEGMENT}.data", "ab") as file:
        file.write(b"\0")


@attack("CORRUPT", "users.safetensors")
def edited_size_in_manifest(folder: Path) -> None:
    edit_json(folder, MANIFEST, "files", USERS, "bytes", to=7, sealed=False)


@attack("CORRUPT", "bytes")
def negative_size(folder: Path) -> None:
    edit_json(folder, MANIFEST, "files", USERS, "bytes", to=-1, sealed=False)


@attack("CORRUPT", "sha256")
def digest_that_is_none(folder: Path) -> None:
    edit_json(folder, MANIFEST, "files", USERS, "sha256", to="../../etc", sealed=False)


@attack("CORRUPT", "../outside")
def path_that_leaves_the_folder(folder: Path) -> None:
    edit_json(folder, MANIFEST, "files", "../outside", to={"bytes": 1, "sha256": "0" * 64}, sealed=False)


@attack("CORRUPT", "/etc/passwd")
def absolute_path(folder: Path) -> None:
    edit_json(folder, MANIFEST, "files", "/etc/passwd", to={"bytes": 1, "sha256": "0" * 64}, sealed=False)


@attack("CORRUPT", "catalog//users")
def path_with_an_empty_part(folder: Path) -> None:
    edit_json(folder, MANIFEST, "files", "catalog//users.safetensors", to={"bytes": 1, "sha256": "0" * 64}, sealed=False)


@attack("CORRUPT", "a/../../b")
def graph_path_that_leaves_the_folder(folder: Path) -> None:
    edit_json(folder, VARIANT, "segments", 1, "graph", to="a/../../b")


@attack("CORRUPT", "../cpu-fp32")
def variant_name_that_leaves_the_folder(folder: Path) -> None:
    edit_json(folder, MANIFEST, "variants", to=["../cpu-fp32"])


@attack("CORRUPT", "other.onnx")
def graph_that_is_not_listed(folder: Path) -> None:
    edit_json(folder, VARIANT, "segments", 1, "graph", to="other.onnx")


@attack("CORRUPT", "link")
def symbolic_link_to_a_table(folder: Path) -> None:
    (folder / PIECES).rename(folder / "elsewhere")
    (folder / PIECES).symlink_to(folder / "elsewhere")


@attack("CORRUPT", "link")
def symbolic_link_to_a_folder(folder: Path) -> None:
    (folder / "catalog").rename(folder / "elsewhere")
    (folder / "catalog").symlink_to("elsewhere", target_is_directory=True)


@attack("CORRUPT", "link")
def symbolic_link_to_the_manifest(folder: Path) -> None:
    (folder / MANIFEST).rename(folder / "elsewhere")
    (folder / MANIFEST).symlink_to("elsewhere")


@attack("CORRUPT", "plain file")
def folder_in_place_of_a_table(folder: Path) -> None:
    (folder / PIECES).unlink()
    (folder / PIECES).mkdir()


@attack("CORRUPT", "plain file")
def fifo_in_place_of_the_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()
    os.mkfifo(folder / MANIFEST)


# JSON


@attack("CORRUPT", "manifest.json")
def empty_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text("")


@attack("CORRUPT", "not valid JSON")
def half_a_manifest(folder: Path) -> None:
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(text[: len(text) // 2])


@attack("CORRUPT", "manifest.json")
def manifest_that_is_an_array(folder: Path) -> None:
    (folder / MANIFEST).write_text("[1]")


@attack("CORRUPT", "deep")
def deeply_nested_json(folder: Path) -> None:
    (folder / MANIFEST).write_text('{"schema": 1, "x": ' + "[" * 100_000 + "]" * 100_000 + "}")


@attack("CORRUPT", "bytes of JSON")
def endless_json(folder: Path) -> None:
    (folder / MANIFEST).write_text('{"schema": 1' + " " * (16 << 20) + "}")


@attack("CORRUPT", "values")
def endless_list_of_exits(folder: Path) -> None:
    (folder / MANIFEST).write_text('{"schema": 1, "exits": [' + "1," * (7 << 20) + "1]}")


@attack("CORRUPT", "`model` is missing")
def as_many_values_as_are_allowed(folder: Path) -> None:
    (folder / MANIFEST).write_text('{"schema": 1, "exits": [' + "{}," * 65_532 + "{}]}")


@attack("CORRUPT", "not valid JSON")
def json_that_is_not_utf8(folder: Path) -> None:
    (folder / MANIFEST).write_bytes(b'{"schema": 1, "producer": "\xff\xfe"}')


@attack("UNSUPPORTED", "schema")
def newer_schema(folder: Path) -> None:
    edit_json(folder, MANIFEST, "schema", to=2)


@attack("CORRUPT", "schema")
def schema_as_text(folder: Path) -> None:
    edit_json(folder, MANIFEST, "schema", to="1")


@attack("UNSUPPORTED", "time-travel")
def unknown_requirement_of_the_manifest(folder: Path) -> None:
    edit_json(folder, MANIFEST, "requires", to=["time-travel"])


@attack("UNSUPPORTED", "time-travel")
def unknown_requirement_of_the_variant(folder: Path) -> None:
    edit_json(folder, VARIANT, "requires", to=["time-travel"])


@attack("UNSUPPORTED", "time-travel")
def unknown_requirement_of_the_catalog(folder: Path) -> None:
    edit_json(folder, CATALOG, "requires", to=["time-travel"])


@attack("CORRUPT", "exits")
def no_exits(folder: Path) -> None:
    edit_json(folder, MANIFEST, "exits", to=[])


@attack("CORRUPT", "exits[1]")
def exits_that_descend(folder: Path) -> None:
    edit_json(folder, MANIFEST, "exits", to=[2, 1, 4])


@attack("CORRUPT", "exits")
def exits_short_of_the_model(folder: Path) -> None:
    edit_json(folder, MANIFEST, "exits", to=[1, 2, 3])


@attack("CORRUPT", "hidden_size")
def absurd_hidden_size(folder: Path) -> None:
    edit_json(folder, MANIFEST, "model", "hidden_size", to=1 << 62)


@attack("CORRUPT", "kv_heads")
def negative_heads(folder: Path) -> None:
    edit_json(folder, MANIFEST, "model", "kv_heads", to=-1)


@attack("CORRUPT", "kv_heads")
def model_larger_than_any_memory(folder: Path) -> None:
    for key, value in {"kv_heads": 1 << 20, "head_dim": 1 << 20, "max_positions": 1 << 24}.items():
        edit_json(folder, MANIFEST, "model", key, to=value)


@attack("CORRUPT", "opset")
def variant_without_an_opset(folder: Path) -> None:
    edit_json(folder, VARIANT, "opset", to=None)


@attack("CORRUPT", "max_tokens")
def no_tokens_at_all(folder: Path) -> None:
    edit_json(folder, VARIANT, "limits", "max_tokens", to=0)


@attack("CORRUPT", "max_positions")
def more_positions_than_the_model(folder: Path) -> None:
    edit_json(folder, VARIANT, "limits", "max_positions", to=tiny_bundle.POSITIONS + 1)


@attack("CORRUPT", "variants")
def no_variants(folder: Path) -> None:
    edit_json(folder, MANIFEST, "variants", to=[])


@attack("UNSUPPORTED", "abacus")
def unknown_backend(folder: Path) -> None:
    edit_json(folder, VARIANT, "backend", to="abacus")


# Files that do not belong together


@attack("MISMATCH", "catalog_sha256")
def foreign_catalog(folder: Path) -> None:
    edit_json(folder, VARIANT, "catalog_sha256", to="0" * 64, sealed=False)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"][VARIANT] = tiny_bundle.entry(folder / VARIANT)
    tiny_bundle.write_json(folder / MANIFEST, manifest)


@attack("MISMATCH", "checkpoint_sha256")
def foreign_checkpoint(folder: Path) -> None:
    edit_json(folder, VARIANT, "checkpoint_sha256", to="0" * 64)


@attack("MISMATCH", "policy.json")
def policy_of_another_variant(folder: Path) -> None:
    tiny_bundle.write_policy(folder, [{"a": 1.0, "b": 0.0, "upper": 1.0, "lower": 1.0}] * 3)
    edit_json(folder, VARIANT, "producer", to="exported again")


# Policy


def damaged_policy(folder: Path, **changes: Any) -> None:
    exits = [{"a": 1.0, "b": 0.0, "upper": 1.0, "lower": 1.0} for _ in range(3)]
    exits[1] |= changes
    tiny_bundle.write_policy(folder, exits)


@attack("CORRUPT", "exits")
def policy_with_too_few_exits(folder: Path) -> None:
    tiny_bundle.write_policy(folder, [{"a": 1.0, "b": 0.0, "upper": None, "lower": None}] * 2)


@attack("CORRUPT", "exits[1] a")
def policy_with_a_negative_slope(folder: Path) -> None:
    damaged_policy(folder, a=-1.0)


@attack("CORRUPT", "exits[1] a")
def policy_with_a_slope_that_leaves_float32(folder: Path) -> None:
    damaged_policy(folder, a=3e38, upper=None, lower=None)


@attack("CORRUPT", "exits[1] b")
def policy_with_an_intercept_that_leaves_float32(folder: Path) -> None:
    damaged_policy(folder, b=-3e38, upper=None, lower=None)


@attack("CORRUPT", "not valid JSON")
def policy_with_nan(folder: Path) -> None:
    damaged_policy(folder, b=float("nan"))


@attack("CORRUPT", "exits[1] b")
def policy_beyond_float32(folder: Path) -> None:
    damaged_policy(folder, b=1e300)


@attack("CORRUPT", "exits[1] upper")
def policy_with_text(folder: Path) -> None:
    damaged_policy(folder, upper="1.0")


@attack("CORRUPT", "patience")
def policy_without_patience(folder: Path) -> None:
    tiny_bundle.write_policy(folder, [{"a": 1.0, "b": 0.0, "upper": None, "lower": None}] * 3, patience=0)


# Tables


def write_header(folder: Path, header: bytes, length: int | None = None) -> None:
    size = len(header) if length is None else length
    (folder / PIECES).write_bytes(size.to_bytes(8, "little") + header + bytes(64))
    tiny_bundle.refresh(folder)


@attack("CORRUPT", "pieces.safetensors")
def empty_table(folder: Path) -> None:
    (folder / PIECES).write_bytes(b"")
    tiny_bundle.refresh(folder)


@attack("CORRUPT", "header")
def huge_header_length(folder: Path) -> None:
    write_header(folder, b"{}", (1 << 64) - 1)


@attack("CORRUPT", "header")
def header_beyond_the_file(folder: Path) -> None:
    write_header(folder, b"{}", 1000)


@attack("CORRUPT", "not valid JSON")
def header_that_is_no_json(folder: Path) -> None:
    write_header(folder, b"{]")


@attack("CORRUPT", "deep")
def deeply_nested_header(folder: Path) -> None:
    write_header(folder, b'{"x":' * 50_000 + b"1" + b"}" * 50_000)


@attack("CORRUPT", "`offsets` is missing")
def header_with_a_long_name_and_many_dimensions(folder: Path) -> None:
    tensor = {"dtype": "U8", "shape": [1] * 4000, "data_offsets": [0, 1]}
    write_header(folder, json.dumps({"n" * (500 << 10): tensor}).encode())


@attack("CORRUPT", "values")
def header_with_more_tensors_than_are_allowed(folder: Path) -> None:
    tensor = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
    write_header(folder, json.dumps({f"{n}": tensor for n in range(20_000)}).encode())


@attack("CORRUPT", "data_offsets")
def tensor_beyond_the_file(folder: Path) -> None:
    write_header(folder, b'{"offsets":{"dtype":"I64","shape":[41],"data_offsets":[0,328]}}')


@attack("CORRUPT", "its dtype and shape need")
def tensor_ending_before_it_begins(folder: Path) -> None:
    write_header(folder, b'{"offsets":{"dtype":"I64","shape":[1],"data_offsets":[16,8]}}')


@attack("CORRUPT", "overflows")
def shape_that_overflows(folder: Path) -> None:
    write_header(folder, b'{"offsets":{"dtype":"I64","shape":[4611686018427387904,4],"data_offsets":[0,0]}}')


@attack("CORRUPT", "dtype")
def unknown_dtype(folder: Path) -> None:
    write_header(folder, b'{"offsets":{"dtype":"I128","shape":[1],"data_offsets":[0,16]}}')


@attack("CORRUPT", "aligned")
def misaligned_tensor(folder: Path) -> None:
    count = json.loads((folder / CATALOG).read_text())["counts"]["pieces"] + 1
    header = json.dumps({"offsets": {"dtype": "I64", "shape": [count], "data_offsets": [1, 1 + 8 * count]}}).encode()
    header += b" " * (-len(header) % 8)
    (folder / PIECES).write_bytes(len(header).to_bytes(8, "little") + header + bytes(8 * count + 8))
    tiny_bundle.refresh(folder)


@attack("CORRUPT", "`similar`")
def missing_tensor(folder: Path) -> None:
    edit_table(folder, USERS, "similar", lambda array: None)


@attack("CORRUPT", "`embeddings` is F32")
def wrong_dtype(folder: Path) -> None:
    edit_table(folder, USERS, "embeddings", lambda array: array.astype(np.float32))


@attack("CORRUPT", "`embeddings` has shape")
def wrong_shape(folder: Path) -> None:
    edit_table(folder, ITEMS, "embeddings", lambda array: array[:, :-1].copy())


@attack("CORRUPT", "`embeddings`[3]")
def embedding_that_is_nan(folder: Path) -> None:
    edit_table(folder, ITEMS, "embeddings", lambda array: put(3, np.nan)(array.reshape(-1)).reshape(array.shape))


@attack("CORRUPT", "`fold_in`[4]")
def fold_in_that_is_infinite(folder: Path) -> None:
    edit_table(folder, ITEMS, "fold_in", lambda array: put(4, np.inf)(array.reshape(-1)).reshape(array.shape))


@attack("CORRUPT", "`similar`")
def similar_user_out_of_range(folder: Path) -> None:
    edit_table(folder, USERS, "similar", put(2, tiny_bundle.USERS))


@attack("CORRUPT", "`history_items`[5]")
def history_item_out_of_range(folder: Path) -> None:
    edit_table(folder, USERS, "history_items", put(5, -1))


@attack("CORRUPT", "`history_offsets`")
def history_offsets_that_descend(folder: Path) -> None:
    edit_table(folder, USERS, "history_offsets", put(3, 0))


@attack("CORRUPT", "`history_offsets`")
def history_offsets_beyond_the_table(folder: Path) -> None:
    edit_table(folder, USERS, "history_offsets", put(-1, 1 << 60))


@attack("CORRUPT", "`history_offsets`[0]")
def history_offsets_that_start_below_zero(folder: Path) -> None:
    edit_table(folder, USERS, "history_offsets", put(0, -1))


@attack("CORRUPT", "`history_times`")
def history_out_of_order(folder: Path) -> None:
    edit_table(folder, USERS, "history_times", put(0, 1 << 40))


@attack("CORRUPT", "`history_by_item`")
def history_position_out_of_range(folder: Path) -> None:
    edit_table(folder, USERS, "history_by_item", put(0, 1 << 30))


@attack("CORRUPT", "`history_by_item`")
def history_position_named_twice(folder: Path) -> None:
    edit_table(folder, USERS, "history_by_item", lambda array: put(1, array[0])(array))


@attack("CORRUPT", "`history_liked`")
def verdict_that_is_neither(folder: Path) -> None:
    edit_table(folder, USERS, "history_liked", put(0, 2))


@attack("CORRUPT", "`rating_likes`")
def more_likes_than_ratings(folder: Path) -> None:
    edit_table(folder, ITEMS, "rating_likes", put(0, 2))


@attack("CORRUPT", "`ids` does not ascend")
def ids_out_of_order(folder: Path) -> None:
    edit_table(folder, ITEMS, "ids", put(1, -1000))


@attack("CORRUPT", "`field.title`[4]")
def field_piece_out_of_range(folder: Path) -> None:
    edit_table(folder, ITEMS, "field.title", put(4, 40))


@attack("CORRUPT", "`tokens`[1]")
def token_beyond_the_vocabulary(folder: Path) -> None:
    edit_table(folder, PIECES, "tokens", put(1, tiny_bundle.VOCABULARY))


@attack("CORRUPT", "`offsets`")
def piece_offsets_that_descend(folder: Path) -> None:
    edit_table(folder, PIECES, "offsets", put(3, 0))


@attack("CORRUPT", "users")
def more_users_than_rows_can_count(folder: Path) -> None:
    edit_json(folder, CATALOG, "counts", "users", to=1 << 40)


@attack("CORRUPT", "ids")
def unknown_kind_of_id(folder: Path) -> None:
    edit_json(folder, CATALOG, "ids", "user", to="uuid")


# The prompt program


@attack("UNSUPPORTED", "horoscope")
def unknown_op(folder: Path) -> None:
    edit_json(folder, CATALOG, "prompt", "prefix", 0, to={"op": "horoscope"})


@attack("CORRUPT", "prefix[0] piece")
def piece_out_of_range(folder: Path) -> None:
    edit_json(folder, CATALOG, "prompt", "prefix", 0, "piece", to=40)


@attack("CORRUPT", "missing")
def op_without_its_field(folder: Path) -> None:
    edit_json(folder, CATALOG, "prompt", "prefix", 1, to={"op": "user_field", "field": "age"})


@attack("CORRUPT", "shoe_size")
def field_that_is_not_there(folder: Path) -> None:
    edit_json(folder, CATALOG, "prompt", "prefix", 1, "field", to="shoe_size")


@attack("CORRUPT", "bins")
def rate_without_bins(folder: Path) -> None:
    edit_json(folder, CATALOG, "prompt", "prefix", 2, "bins", to=[])


@attack("CORRUPT", "target item")
def target_item_in_the_prefix(folder: Path) -> None:
    edit_json(folder, CATALOG, "prompt", "prefix", 0, to={"op": "item_field", "field": "title"})


@attack("CORRUPT", "verdict")
def verdict_outside_an_entry(folder: Path) -> None:
    edit_json(folder, CATALOG, "prompt", "candidate", 0, to={"op": "verdict", "yes": 1, "no": 2})


@attack("CORRUPT", "inside an `entry`")
def list_inside_a_list(folder: Path) -> None:
    inner = {"op": "similar_liked", "limit": 1, "empty": 1, "entry": []}
    edit_json(folder, CATALOG, "prompt", "prefix", 3, "entry", to=[inner])


@attack("CORRUPT", "limit")
def endless_history(folder: Path) -> None:
    edit_json(folder, CATALOG, "prompt", "prefix", 3, "limit", to=1 << 40)


@attack("CORRUPT", "entry: is empty")
def list_without_an_entry(folder: Path) -> None:
    edit_json(folder, CATALOG, "prompt", "prefix", 3, "entry", to=[])


@attack("CORRUPT", "more than 65536 pieces without a token into the prefix", "running")
def entries_without_a_token_that_never_end(folder: Path) -> None:
    """Four entries of 20,000 pieces: no token ever comes that the limit could stop."""
    edit_json(folder, CATALOG, "prompt", "prefix", 3, "entry", to=[{"op": "piece", "piece": 4}] * 20_000)


def lengthen_piece(folder: Path, piece: int, tokens: int) -> None:
    tables = load_file(folder / PIECES)
    offsets = tables["offsets"]
    tables["tokens"] = np.insert(tables["tokens"], offsets[piece + 1], np.zeros(tokens, np.int32))
    offsets[piece + 1 :] += tokens
    save_file(tables, folder / PIECES)
    tiny_bundle.refresh(folder)


@attack("TOO_LONG", "the prefix is longer than 96 tokens", "running")
def small_pieces_that_make_a_huge_prefix(folder: Path) -> None:
    lengthen_piece(folder, 0, 1 << 20)
    edit_json(folder, CATALOG, "prompt", "prefix", to=[{"op": "piece", "piece": 0}] * 500)


@attack("TOO_LONG", "candidate 1's prompt is longer than 96 tokens", "running")
def small_pieces_that_make_a_huge_candidate(folder: Path) -> None:
    title = int(load_file(folder / ITEMS)["field.title"][RUNNING_ITEMS[1]])
    assert title not in load_file(folder / ITEMS)["field.title"][: RUNNING_ITEMS[1]]
    lengthen_piece(folder, title, 1 << 20)
    edit_json(folder, CATALOG, "prompt", "prefix", to=[{"op": "piece", "piece": 0}])
    edit_json(folder, CATALOG, "prompt", "candidate", to=[{"op": "item_field", "field": "title"}] * 30)


@attack("OK", found="running")
def prompts_said_to_be_endless(folder: Path) -> None:
    for key in ("max_prefix_tokens", "max_candidate_tokens"):
        edit_json(folder, CATALOG, "prompt", key, to=(1 << 31) - 1)


@attack("OK", found="running")
def prompts_said_to_take_gigabytes(folder: Path) -> None:
    edit_json(folder, CATALOG, "prompt", "max_prefix_tokens", to=1 << 26)


# Graphs


@attack("BACKEND_FAILED", "segment-1.onnx")
def graph_that_is_noise(folder: Path) -> None:
    (folder / SEGMENT).write_bytes(bytes(range(256)) * 8)
    tiny_bundle.refresh(folder)


@attack("BACKEND_FAILED", "segment-1.onnx")
def weights_cut_off(folder: Path) -> None:
    os.truncate(folder / f"{SEGMENT}.data", 16)
    tiny_bundle.refresh(folder)


@attack("BACKEND_FAILED", "segment-1.onnx")
def weights_outside_the_bundle(folder: Path) -> None:
    def edit(graph: Any) -> None:
        for tensor in graph.initializer:
            for pair in tensor.external_data:
                if pair.key == "location":
                    pair.value = "../../../../../../../../etc/passwd"

    edit_graph(folder, edit)


@attack("CORRUPT", "`owner`")
def input_the_manifest_misnames(folder: Path) -> None:
    edit_json(folder, VARIANT, "segments", 1, "inputs", "hidden", to="owner")


@attack("CORRUPT", "no input `nowhere`")
def input_the_graph_lacks(folder: Path) -> None:
    edit_json(folder, VARIANT, "segments", 1, "inputs", "rows", to="nowhere")


@attack("CORRUPT", "no output `nowhere`")
def output_the_graph_lacks(folder: Path) -> None:
    edit_json(folder, VARIANT, "segments", 1, "outputs", "logits", to="nowhere")


@attack("CORRUPT", "`surprise`")
def input_the_manifest_does_not_know(folder: Path) -> None:
    def edit(graph: Any) -> None:
        graph.input.append(onnx.helper.make_tensor_value_info("surprise", onnx.TensorProto.FLOAT, ["T"]))

    edit_graph(folder, edit)


@attack("CORRUPT", "`pk1` is float32, expected float16")
def cache_of_another_dtype(folder: Path) -> None:
    edit_json(folder, VARIANT, "segments", 1, "cache_dtype", to="float16")


@attack("CORRUPT", "hidden_dtype")
def hidden_that_changes_dtype_on_the_way(folder: Path) -> None:
    edit_json(folder, VARIANT, "segments", 1, "hidden_dtype", to="float16")


@attack("CORRUPT", "has size 8 in dimension 2, expected 4")
def heads_of_another_width(folder: Path) -> None:
    edit_json(folder, MANIFEST, "model", "head_dim", to=4)


@attack("CORRUPT", "2 names, the segment has 1 layers")
def too_many_caches(folder: Path) -> None:
    edit_json(folder, VARIANT, "segments", 1, "inputs", "past_keys", to=["pk1", "pk1"])


@attack("CORRUPT", "segments")
def fewer_segments_than_exits(folder: Path) -> None:
    value = json.loads((folder / VARIANT).read_text())
    edit_json(folder, VARIANT, "segments", to=value["segments"][:2])


def write_attacks(folder: Path) -> None:
    """folder/NAME/bundle and folder/NAME/expected (status, the text, and when) for each attack."""
    sound = tiny_bundle.write_bundle(folder / "sound" / "bundle")
    (folder / "sound" / "expected").write_text("REXIT_OK\n\nrunning\n")
    for name, (damage, status, text, found) in ATTACKS.items():
        shutil.copytree(sound, folder / name / "bundle")
        damage(folder / name / "bundle")
        (folder / name / "expected").write_text(f"{status}\n{text}\n{found}\n")


if __name__ == "__main__":
    write_attacks(Path(sys.argv[1]))
