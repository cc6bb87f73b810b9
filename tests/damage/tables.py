"""Tables: their headers, tensors and numbers, and the users' lists."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from builders.bundles import catalog
from builders.bundles.bundle_files import refresh
from builders.bundles.model import VOCABULARY
from damage.table import (
    CATALOG,
    DELETE,
    ITEMS,
    MANIFEST,
    PIECES,
    RUNNING_USER,
    USERS,
    Case,
    Row,
    case,
    change_json,
    change_table,
    put,
    replaced,
    table,
)


def full(value: float) -> Any:
    """Returns a function that fills an array."""
    return lambda array: np.full_like(array, value)


def header(name: str, names: str, text: bytes, length: int | None = None) -> Case:
    """pieces.safetensors of a header and 64 bytes. length: that the file claims for the header."""

    size = len(text) if length is None else length
    return Case(name, "CORRUPT", names, replaced(PIECES, size.to_bytes(8, "little") + text + bytes(64)))


def offsets(dtype: str, shape: list[int], begin: int, end: int) -> bytes:
    """A header with one tensor."""
    return json.dumps({"offsets": {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}}).encode()


def corrupt(name: str, names: str, file: str, tensor: str, value: Any, found: str) -> Row:
    return Row(name, "CORRUPT", names, file, {tensor: value}, found)


CASES = table(
    header("huge_header_length", "header", b"{}", (1 << 64) - 1),
    header("header_beyond_the_file", "header", b"{}", 1000),
    header("header_that_is_no_json", "not valid JSON", b"{]"),
    header("deeply_nested_header", "deep", b'{"x":' * 50_000 + b"1" + b"}" * 50_000),
    header(
        "header_with_a_long_name_and_many_dimensions",
        "`offsets` is missing",
        json.dumps({"n" * (500 << 10): {"dtype": "U8", "shape": [1] * 4000, "data_offsets": [0, 1]}}).encode(),
    ),
    header(
        "header_with_more_tensors_than_are_allowed",
        "values",
        json.dumps({f"{n}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for n in range(20_000)}).encode(),
    ),
    header("tensor_beyond_the_file", "data_offsets", offsets("I64", [41], 0, 328)),
    header("tensor_ending_before_it_begins", "its dtype and shape need", offsets("I64", [1], 16, 8)),
    header("tensor_with_fewer_bytes_than_its_shape_needs", "its dtype and shape need", offsets("I64", [41], 0, 8)),
    header("shape_that_overflows", "overflows", offsets("I64", [1 << 62, 4], 0, 0)),
    header("unknown_dtype", "dtype", offsets("I128", [1], 0, 16)),
    corrupt("missing_tensor", "`similar`", USERS, "similar", DELETE, "opening"),
    corrupt("wrong_dtype", "`embeddings` is F32", USERS, "embeddings", lambda a: a.astype(np.float32), "opening"),
    corrupt("wrong_shape", "`embeddings` has shape", ITEMS, "embeddings", lambda a: a[:, :-1].copy(), "opening"),
    corrupt(
        "neighbours_without_end",
        "`similar` has 65537 neighbours per user",
        USERS,
        "similar",
        lambda a: np.zeros((len(a), (1 << 16) + 1), np.int32),
        "opening",
    ),
    Row(
        "tokenizer_larger_than_the_model",
        "CORRUPT",
        "tokenizer: vocab_size is 65, the model's is 64",
        CATALOG,
        {"/tokenizer/vocab_size": 65},
    ),
    # of the text that all prompts begin with
    corrupt("token_beyond_the_vocabulary", "`tokens`[1]", PIECES, "tokens", put(1, VOCABULARY), "opening"),
    corrupt("embedding_that_is_nan", "`embeddings`[3]", ITEMS, "embeddings", put(3, np.nan), "verifying"),
    corrupt("fold_in_that_is_infinite", "`fold_in`[4]", ITEMS, "fold_in", put(4, np.inf), "verifying"),
    corrupt("similar_user_out_of_range", "`similar`", USERS, "similar", put((2,), catalog.USERS), "verifying"),
    corrupt("history_item_out_of_range", "`history_items`[5]", USERS, "history_items", put(5, -1), "verifying"),
    corrupt("history_offsets_that_descend", "`history_offsets`", USERS, "history_offsets", put(3, 0), "verifying"),
    corrupt("history_offsets_beyond_the_table", "`history_offsets`", USERS, "history_offsets", put(-1, 1 << 60), "verifying"),
    corrupt("history_offsets_that_start_below_zero", "`history_offsets`[0]", USERS, "history_offsets", put(0, -1), "verifying"),
    corrupt("history_out_of_order", "`history_times`", USERS, "history_times", put(0, 1 << 40), "verifying"),
    corrupt("history_position_out_of_range", "`history_by_item`", USERS, "history_by_item", put(0, 1 << 30), "verifying"),
    corrupt(
        "history_position_named_twice", "`history_by_item`", USERS, "history_by_item", lambda a: put(1, a[0])(a), "verifying"
    ),
    corrupt("verdict_that_is_neither", "`history_liked`", USERS, "history_liked", put(0, 2), "verifying"),
    corrupt("more_likes_than_ratings", "`rating_likes`", ITEMS, "rating_likes", put(0, 2), "verifying"),
    corrupt("ids_out_of_order", "`ids` does not ascend", ITEMS, "ids", put(1, -1000), "verifying"),
    corrupt("one_id_in_two_rows", "`ids` does not ascend at row 1", ITEMS, "ids", lambda a: put(1, a[0])(a), "verifying"),
    corrupt("field_piece_out_of_range", "`field.title`[4]", ITEMS, "field.title", put(4, 40), "verifying"),
    corrupt("last_token_beyond_the_vocabulary", "`tokens`[", PIECES, "tokens", put(-1, VOCABULARY), "verifying"),
    corrupt("piece_offsets_that_descend", "`offsets`", PIECES, "offsets", put(3, 0), "verifying"),
    corrupt("embedding_of_a_candidate_that_is_nan", "`embeddings` of item row", ITEMS, "embeddings", full(np.nan), "running"),
    corrupt("similar_user_of_the_slate_out_of_range", "`similar`[", USERS, "similar", full(catalog.USERS), "running"),
    corrupt(
        "history_of_the_slate_that_ends_before_it_begins",
        "`history_offsets`[2]",
        USERS,
        "history_offsets",
        put(RUNNING_USER, 1 << 40),
        "running",
    ),
    corrupt(
        "history_of_the_slate_that_begins_below_zero",
        "`history_offsets`[2]",
        USERS,
        "history_offsets",
        put(RUNNING_USER, -1),
        "running",
    ),
    corrupt("all_history_positions_out_of_range", "`history_by_item`[", USERS, "history_by_item", full(1 << 30), "running"),
    corrupt(
        "ratings_of_a_candidate_that_begin_below_zero", "`rating_offsets`[0]", ITEMS, "rating_offsets", put(0, -1), "running"
    ),
    corrupt("more_likes_than_ratings_of_candidates", "`rating_likes`[", ITEMS, "rating_likes", full(1 << 30), "running"),
    corrupt("titles_out_of_range", "a field`[", ITEMS, "field.title", full(-1), "running"),
    corrupt("pieces_of_the_data_beyond_their_tokens", "`offsets`[", PIECES, "offsets", put(slice(10, None), 1 << 60), "running"),
)


@case("CORRUPT", "aligned")
def misaligned_tensor(folder: Path) -> None:
    count = json.loads((folder / CATALOG).read_text())["counts"]["pieces"] + 1
    text = offsets("I64", [count], 1, 1 + 8 * count)
    text += b" " * (-len(text) % 8)
    replaced(PIECES, len(text).to_bytes(8, "little") + text + bytes(8 * count + 8))(folder)


@case("INVALID_ARGUMENT", "the catalog's ids are strings", "running")
def sound_with_string_ids(folder: Path) -> None:
    """In the order of their bytes, in which capital letters stand before all others."""
    for name, count in ((USERS, catalog.USERS), (ITEMS, catalog.ITEMS)):
        ids = sorted(f"{'aZ'[n % 2]}-ü{n:04d}".encode() for n in range(count))
        tables = load_file(folder / name)
        del tables["ids"]
        tables["id_bytes"] = np.frombuffer(b"".join(ids), np.uint8)
        tables["id_offsets"] = np.cumsum([0, *map(len, ids)]).astype(np.int64)
        save_file(tables, folder / name)
    change_json(folder, CATALOG, {"/ids": {"user": "string", "item": "string"}})
    refresh(folder)


@case("CORRUPT", "`history_items`[", "running")
def history_item_of_the_slate_out_of_range(folder: Path) -> None:
    first = int(load_file(folder / USERS)["history_offsets"][RUNNING_USER])
    change_table(folder, USERS, {"history_items": put(first, 1 << 30)})
    refresh(folder)


@case("CORRUPT", "`tokens`[", "running")
def tokens_of_the_data_beyond_the_vocabulary(folder: Path) -> None:
    data = load_file(folder / PIECES)["offsets"][10]  # pieces before are the program's
    change_table(folder, PIECES, {"tokens": put(slice(data, None), VOCABULARY)})
    refresh(folder)


@case("CORRUPT", "a part of the prompt reads more than 16777236 rows", "running")
def likes_without_end(folder: Path) -> None:
    """Thousands of similar users, all of them one, who liked one item thousands of times: no list ever fills."""
    count, liker = 4200, RUNNING_USER + 1
    users, items = load_file(folder / USERS), load_file(folder / ITEMS)
    users["similar"] = np.full((catalog.USERS, 4096), liker, np.int32)
    users["history_offsets"] = np.where(np.arange(catalog.USERS + 1) > liker, count, 0)
    users |= {"history_items": np.zeros(count, np.int32), "history_times": np.zeros(count, np.int64)}
    users |= {"history_liked": np.ones(count, np.uint8), "history_by_item": np.arange(count, dtype=np.int32)}
    items["rating_offsets"] = np.where(np.arange(catalog.ITEMS + 1) > 0, count, 0)
    items |= {"rating_times": np.zeros(count, np.int64), "rating_likes": np.arange(1, count + 1, dtype=np.int32)}
    save_file(users, folder / USERS)
    save_file(items, folder / ITEMS)
    change_json(folder, CATALOG, {"/counts/interactions": count})
    refresh(folder)


CASES |= table(
    Case("empty_table", "CORRUPT", "pieces.safetensors", replaced(PIECES, b"")),
    misaligned_tensor,
    sound_with_string_ids,
    history_item_of_the_slate_out_of_range,
    tokens_of_the_data_beyond_the_vocabulary,
    likes_without_end,
)


def lists(name: str, names: str, tensor: str, value: Any, found: str = "searching") -> Row:
    return corrupt(name, names, USERS, tensor, value, found)


IN_LISTS = table(
    Row("sound_lists", "OK", "", CATALOG, {}, "searching"),
    lists("no_centres", "`centres` is missing", "centres", DELETE, "opening"),
    lists("centres_of_another_space", "`centres` has shape", "centres", lambda a: a[:, :-1].copy(), "opening"),
    lists("fewer_lists_than_centres", "`list_offsets` has shape", "list_offsets", lambda a: a[:-1], "opening"),
    lists("fewer_users_in_lists_than_there_are", "`list_users` has shape", "list_users", lambda a: a[:-1], "opening"),
    Row("a_search_that_looks_at_nothing", "CORRUPT", "probes: is 0, expected ", CATALOG, {"/embedding/probes": 0}),
    Row("a_search_that_looks_at_too_many_lists", "CORRUPT", "probes: is 65537, expected ", CATALOG, {"/embedding/probes": 65537}),
    Row("more_probes_than_lists", "OK", "", CATALOG, {"/embedding/probes": 65536}, "searching"),
    # Nobody is similar to anybody then.
    Row("no_lists_at_all", "OK", "", USERS, {"centres": lambda a: a[:0], "list_offsets": lambda a: a[:1]}, "searching"),
    lists("centre_that_is_nan", "`centres` of list 2 is not finite", "centres", put((2,), np.nan)),
    lists("listed_embeddings_that_are_infinite", "`embeddings` of user row", "embeddings", full(np.inf)),
    lists("list_beyond_the_table", "`list_offsets`[0] and the next are 0 and 1099511627776", "list_offsets", put(1, 1 << 40)),
    lists("list_that_begins_below_zero", "`list_offsets`[0] and the next are -1 and", "list_offsets", put(0, -1)),
    # No search looks at more than all users.
    lists("lists_that_overlap", "`list_offsets`[", "list_offsets", put(slice(1, None, 2), catalog.USERS)),
    lists("listed_users_out_of_range", "`list_users`[", "list_users", full(catalog.USERS)),
    lists("listed_users_below_zero", "`list_users`[", "list_users", full(-1)),
    lists("user_in_two_lists", "`list_users`[1] is", "list_users", lambda a: put(1, a[0])(a), "verifying"),
    lists(
        "users_out_of_order_in_a_list",
        "`list_users`[1] is smaller than its predecessor in its list",
        "list_users",
        lambda a: put(slice(0, 2), a[1::-1].copy())(a),
        "verifying",
    ),
    lists("user_before_the_first_list", "`list_offsets`[0] is 1, expected 0", "list_offsets", put(0, 1), "verifying"),
    lists("centre_that_is_infinite", "`centres`[", "centres", put((3, 1), -np.inf), "verifying"),
)


@case("CORRUPT", "expected 0 to 64 exclusive", "running")
def token_that_the_model_alone_has(folder: Path) -> None:
    change_json(folder, MANIFEST, {"/model/vocab_size": 128})
    change_table(folder, PIECES, {"tokens": put(3, 64)})
    refresh(folder)


CASES |= table(token_that_the_model_alone_has)
