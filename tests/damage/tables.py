"""The catalog's tables."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from builders.bundles import catalog
from builders.bundles.bundle_files import refresh
from builders.bundles.model import VOCABULARY
from damage.cases import RUNNING_USER, Cases
from damage.edits import CATALOG, ITEMS, PIECES, USERS, edit_json, edit_table, put

CASES = Cases("opening")
ends_in = CASES.ends_in


def write_header(folder: Path, header: bytes, length: int | None = None) -> None:
    size = len(header) if length is None else length
    (folder / PIECES).write_bytes(size.to_bytes(8, "little") + header + bytes(64))
    refresh(folder)


@ends_in("CORRUPT", "pieces.safetensors")
def empty_table(folder: Path) -> None:
    (folder / PIECES).write_bytes(b"")
    refresh(folder)


@ends_in("CORRUPT", "header")
def huge_header_length(folder: Path) -> None:
    write_header(folder, b"{}", (1 << 64) - 1)


@ends_in("CORRUPT", "header")
def header_beyond_the_file(folder: Path) -> None:
    write_header(folder, b"{}", 1000)


@ends_in("CORRUPT", "not valid JSON")
def header_that_is_no_json(folder: Path) -> None:
    write_header(folder, b"{]")


@ends_in("CORRUPT", "deep")
def deeply_nested_header(folder: Path) -> None:
    write_header(folder, b'{"x":' * 50_000 + b"1" + b"}" * 50_000)


@ends_in("CORRUPT", "`offsets` is missing")
def header_with_a_long_name_and_many_dimensions(folder: Path) -> None:
    tensor = {"dtype": "U8", "shape": [1] * 4000, "data_offsets": [0, 1]}
    write_header(folder, json.dumps({"n" * (500 << 10): tensor}).encode())


@ends_in("CORRUPT", "values")
def header_with_more_tensors_than_are_allowed(folder: Path) -> None:
    tensor = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
    write_header(folder, json.dumps({f"{n}": tensor for n in range(20_000)}).encode())


@ends_in("CORRUPT", "data_offsets")
def tensor_beyond_the_file(folder: Path) -> None:
    write_header(folder, b'{"offsets":{"dtype":"I64","shape":[41],"data_offsets":[0,328]}}')


@ends_in("CORRUPT", "its dtype and shape need")
def tensor_ending_before_it_begins(folder: Path) -> None:
    write_header(folder, b'{"offsets":{"dtype":"I64","shape":[1],"data_offsets":[16,8]}}')


@ends_in("CORRUPT", "its dtype and shape need")
def tensor_with_fewer_bytes_than_its_shape_needs(folder: Path) -> None:
    write_header(folder, b'{"offsets":{"dtype":"I64","shape":[41],"data_offsets":[0,8]}}')


@ends_in("CORRUPT", "overflows")
def shape_that_overflows(folder: Path) -> None:
    write_header(folder, b'{"offsets":{"dtype":"I64","shape":[4611686018427387904,4],"data_offsets":[0,0]}}')


@ends_in("CORRUPT", "dtype")
def unknown_dtype(folder: Path) -> None:
    write_header(folder, b'{"offsets":{"dtype":"I128","shape":[1],"data_offsets":[0,16]}}')


@ends_in("CORRUPT", "aligned")
def misaligned_tensor(folder: Path) -> None:
    count = json.loads((folder / CATALOG).read_text())["counts"]["pieces"] + 1
    header = json.dumps({"offsets": {"dtype": "I64", "shape": [count], "data_offsets": [1, 1 + 8 * count]}}).encode()
    header += b" " * (-len(header) % 8)
    (folder / PIECES).write_bytes(len(header).to_bytes(8, "little") + header + bytes(8 * count + 8))
    refresh(folder)


@ends_in("CORRUPT", "`similar`")
def missing_tensor(folder: Path) -> None:
    edit_table(folder, USERS, "similar", lambda array: None)


@ends_in("CORRUPT", "`embeddings` is F32")
def wrong_dtype(folder: Path) -> None:
    edit_table(folder, USERS, "embeddings", lambda array: array.astype(np.float32))


@ends_in("CORRUPT", "`embeddings` has shape")
def wrong_shape(folder: Path) -> None:
    edit_table(folder, ITEMS, "embeddings", lambda array: array[:, :-1].copy())


@ends_in("CORRUPT", "`embeddings`[3]", "verifying")
def embedding_that_is_nan(folder: Path) -> None:
    edit_table(folder, ITEMS, "embeddings", lambda array: put(3, np.nan)(array.reshape(-1)).reshape(array.shape))


@ends_in("CORRUPT", "`fold_in`[4]", "verifying")
def fold_in_that_is_infinite(folder: Path) -> None:
    edit_table(folder, ITEMS, "fold_in", lambda array: put(4, np.inf)(array.reshape(-1)).reshape(array.shape))


@ends_in("CORRUPT", "`similar`", "verifying")
def similar_user_out_of_range(folder: Path) -> None:
    edit_table(folder, USERS, "similar", put(2, catalog.USERS))


@ends_in("CORRUPT", "`history_items`[5]", "verifying")
def history_item_out_of_range(folder: Path) -> None:
    edit_table(folder, USERS, "history_items", put(5, -1))


@ends_in("CORRUPT", "`history_offsets`", "verifying")
def history_offsets_that_descend(folder: Path) -> None:
    edit_table(folder, USERS, "history_offsets", put(3, 0))


@ends_in("CORRUPT", "`history_offsets`", "verifying")
def history_offsets_beyond_the_table(folder: Path) -> None:
    edit_table(folder, USERS, "history_offsets", put(-1, 1 << 60))


@ends_in("CORRUPT", "`history_offsets`[0]", "verifying")
def history_offsets_that_start_below_zero(folder: Path) -> None:
    edit_table(folder, USERS, "history_offsets", put(0, -1))


@ends_in("CORRUPT", "`history_times`", "verifying")
def history_out_of_order(folder: Path) -> None:
    edit_table(folder, USERS, "history_times", put(0, 1 << 40))


@ends_in("CORRUPT", "`history_by_item`", "verifying")
def history_position_out_of_range(folder: Path) -> None:
    edit_table(folder, USERS, "history_by_item", put(0, 1 << 30))


@ends_in("CORRUPT", "`history_by_item`", "verifying")
def history_position_named_twice(folder: Path) -> None:
    edit_table(folder, USERS, "history_by_item", lambda array: put(1, array[0])(array))


@ends_in("CORRUPT", "`history_liked`", "verifying")
def verdict_that_is_neither(folder: Path) -> None:
    edit_table(folder, USERS, "history_liked", put(0, 2))


@ends_in("CORRUPT", "`rating_likes`", "verifying")
def more_likes_than_ratings(folder: Path) -> None:
    edit_table(folder, ITEMS, "rating_likes", put(0, 2))


@ends_in("CORRUPT", "`ids` does not ascend", "verifying")
def ids_out_of_order(folder: Path) -> None:
    edit_table(folder, ITEMS, "ids", put(1, -1000))


@ends_in("CORRUPT", "`ids` does not ascend at row 1", "verifying")
def one_id_in_two_rows(folder: Path) -> None:
    edit_table(folder, ITEMS, "ids", lambda array: put(1, array[0])(array))


@ends_in("CORRUPT", "`field.title`[4]", "verifying")
def field_piece_out_of_range(folder: Path) -> None:
    edit_table(folder, ITEMS, "field.title", put(4, 40))


@ends_in("CORRUPT", "`tokens`[1]")  # of the text that all prompts begin with
def token_beyond_the_vocabulary(folder: Path) -> None:
    edit_table(folder, PIECES, "tokens", put(1, VOCABULARY))


@ends_in("CORRUPT", "`tokens`[", "verifying")
def last_token_beyond_the_vocabulary(folder: Path) -> None:
    edit_table(folder, PIECES, "tokens", put(-1, VOCABULARY))


@ends_in("CORRUPT", "`offsets`", "verifying")
def piece_offsets_that_descend(folder: Path) -> None:
    edit_table(folder, PIECES, "offsets", put(3, 0))


@ends_in("CORRUPT", "users")
def more_users_than_rows_can_count(folder: Path) -> None:
    edit_json(folder, CATALOG, "counts", "users", to=1 << 40)


@ends_in("CORRUPT", "ids")
def unknown_kind_of_id(folder: Path) -> None:
    edit_json(folder, CATALOG, "ids", "user", to="uuid")


@ends_in("INVALID_ARGUMENT", "user is an integer, the catalog's ids are strings", "running")
def sound_with_string_ids(folder: Path) -> None:
    """In the order of their bytes, in which capital letters stand before all others."""
    for name, count in ((USERS, catalog.USERS), (ITEMS, catalog.ITEMS)):
        ids = sorted(f"{'aZ'[n % 2]}-ü{n:04d}".encode() for n in range(count))
        tables = load_file(folder / name)
        del tables["ids"]
        tables["id_bytes"] = np.frombuffer(b"".join(ids), np.uint8)
        tables["id_offsets"] = np.cumsum([0, *map(len, ids)]).astype(np.int64)
        save_file(tables, folder / name)
    edit_json(folder, CATALOG, "ids", to={"user": "string", "item": "string"})


def first(folder: Path) -> int:
    """The first interaction of the user whose slate is run."""
    return int(load_file(folder / USERS)["history_offsets"][RUNNING_USER])


@ends_in("CORRUPT", "`embeddings` of item row", "running")
def embedding_of_a_candidate_that_is_nan(folder: Path) -> None:
    edit_table(folder, ITEMS, "embeddings", lambda array: np.full_like(array, np.nan))


@ends_in("CORRUPT", "`similar`[", "running")
def similar_user_of_the_slate_out_of_range(folder: Path) -> None:
    edit_table(folder, USERS, "similar", lambda array: np.full_like(array, catalog.USERS))


@ends_in("CORRUPT", "`history_offsets`[2]", "running")
def history_of_the_slate_that_ends_before_it_begins(folder: Path) -> None:
    edit_table(folder, USERS, "history_offsets", put(RUNNING_USER, 1 << 40))


@ends_in("CORRUPT", "`history_offsets`[2]", "running")
def history_of_the_slate_that_begins_below_zero(folder: Path) -> None:
    edit_table(folder, USERS, "history_offsets", put(RUNNING_USER, -1))


@ends_in("CORRUPT", "`history_items`[", "running")
def history_item_of_the_slate_out_of_range(folder: Path) -> None:
    edit_table(folder, USERS, "history_items", put(first(folder), 1 << 30))


@ends_in("CORRUPT", "`history_by_item`[", "running")
def all_history_positions_out_of_range(folder: Path) -> None:
    edit_table(folder, USERS, "history_by_item", lambda array: np.full_like(array, 1 << 30))


@ends_in("CORRUPT", "`rating_offsets`[0]", "running")
def ratings_of_a_candidate_that_begin_below_zero(folder: Path) -> None:
    edit_table(folder, ITEMS, "rating_offsets", put(0, -1))


@ends_in("CORRUPT", "`rating_likes`[", "running")
def more_likes_than_ratings_of_candidates(folder: Path) -> None:
    edit_table(folder, ITEMS, "rating_likes", lambda array: np.full_like(array, 1 << 30))


@ends_in("CORRUPT", "a field`[", "running")
def titles_out_of_range(folder: Path) -> None:
    edit_table(folder, ITEMS, "field.title", lambda array: np.full_like(array, -1))


@ends_in("CORRUPT", "`tokens`[", "running")
def tokens_of_the_data_beyond_the_vocabulary(folder: Path) -> None:
    data = load_file(folder / PIECES)["offsets"][10]  # pieces before are the program's
    edit_table(folder, PIECES, "tokens", put(slice(data, None), VOCABULARY))


@ends_in("CORRUPT", "`offsets`[", "running")
def pieces_of_the_data_beyond_their_tokens(folder: Path) -> None:
    edit_table(folder, PIECES, "offsets", put(slice(10, None), 1 << 60))


@ends_in("CORRUPT", "`similar` has 65537 neighbours per user")
def neighbours_without_end(folder: Path) -> None:
    edit_table(folder, USERS, "similar", lambda array: np.zeros((len(array), (1 << 16) + 1), np.int32))


@ends_in("CORRUPT", "a part of the prompt reads more than 16777228 rows", "running")
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
    edit_json(folder, CATALOG, "counts", "interactions", to=count)
