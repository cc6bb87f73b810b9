"""The prompt program, and how long prompts get."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from builders.bundles.bundle_files import refresh
from builders.bundles.catalog import PROGRAM
from damage.cases import RUNNING_ITEMS, Cases
from damage.edits import CATALOG, ITEMS, PIECES, edit_json

CASES = Cases("opening")
ends_in = CASES.ends_in


@ends_in("OK", found="running")
def sound_with_start(folder: Path) -> None:
    """Everybody's prefix begins with the same eleven tokens, one of its pieces being empty."""
    first = [{"op": "piece", "piece": piece} for piece in (0, 3, 4, 9, 0, 3, 1)]
    edit_json(folder, CATALOG, "prompt", "prefix", to=[*first, *PROGRAM["prefix"][1:]])


@ends_in("UNSUPPORTED", "horoscope")
def unknown_op(folder: Path) -> None:
    edit_json(folder, CATALOG, "prompt", "prefix", 0, to={"op": "horoscope"})


@ends_in("CORRUPT", "prefix[0] piece")
def piece_out_of_range(folder: Path) -> None:
    edit_json(folder, CATALOG, "prompt", "prefix", 0, "piece", to=40)


@ends_in("CORRUPT", "missing")
def op_without_its_field(folder: Path) -> None:
    edit_json(folder, CATALOG, "prompt", "prefix", 1, to={"op": "user_field", "field": "age"})


@ends_in("CORRUPT", "shoe_size")
def field_that_is_not_there(folder: Path) -> None:
    edit_json(folder, CATALOG, "prompt", "prefix", 1, "field", to="shoe_size")


@ends_in("CORRUPT", "bins")
def rate_without_bins(folder: Path) -> None:
    edit_json(folder, CATALOG, "prompt", "prefix", 2, "bins", to=[])


@ends_in("CORRUPT", "target item")
def target_item_in_the_prefix(folder: Path) -> None:
    edit_json(folder, CATALOG, "prompt", "prefix", 0, to={"op": "item_field", "field": "title"})


@ends_in("CORRUPT", "verdict")
def verdict_outside_an_entry(folder: Path) -> None:
    edit_json(folder, CATALOG, "prompt", "candidate", 0, to={"op": "verdict", "yes": 1, "no": 2})


@ends_in("CORRUPT", "inside an `entry`")
def list_inside_a_list(folder: Path) -> None:
    inner = {"op": "similar_liked", "limit": 1, "empty": 1, "entry": []}
    edit_json(folder, CATALOG, "prompt", "prefix", 4, "entry", to=[inner])


@ends_in("CORRUPT", "limit")
def endless_history(folder: Path) -> None:
    edit_json(folder, CATALOG, "prompt", "prefix", 4, "limit", to=1 << 40)


@ends_in("CORRUPT", "entry: is empty")
def list_without_an_entry(folder: Path) -> None:
    edit_json(folder, CATALOG, "prompt", "prefix", 4, "entry", to=[])


@ends_in("CORRUPT", "more than 65536 pieces without a token into the prefix", "running")
def entries_without_a_token_that_never_end(folder: Path) -> None:
    """Four entries of 20,000 pieces: no token ever comes that the limit could stop."""
    edit_json(folder, CATALOG, "prompt", "prefix", 4, "entry", to=[{"op": "piece", "piece": 4}] * 20_000)


def lengthen_piece(folder: Path, piece: int, tokens: int) -> None:
    tables = load_file(folder / PIECES)
    offsets = tables["offsets"]
    tables["tokens"] = np.insert(tables["tokens"], offsets[piece + 1], np.zeros(tokens, np.int32))
    offsets[piece + 1 :] += tokens
    save_file(tables, folder / PIECES)
    refresh(folder)


@ends_in("TOO_LONG", "the prefix is longer than 96 tokens", "running")
def small_pieces_that_make_a_huge_prefix(folder: Path) -> None:
    lengthen_piece(folder, 0, 1 << 20)
    edit_json(folder, CATALOG, "prompt", "prefix", to=[{"op": "piece", "piece": 0}] * 500)


@ends_in("TOO_LONG", "candidate 1's prompt is longer than 96 tokens", "running")
def small_pieces_that_make_a_huge_candidate(folder: Path) -> None:
    title = int(load_file(folder / ITEMS)["field.title"][RUNNING_ITEMS[1]])
    assert title not in load_file(folder / ITEMS)["field.title"][: RUNNING_ITEMS[1]]
    lengthen_piece(folder, title, 1 << 20)
    edit_json(folder, CATALOG, "prompt", "prefix", to=[{"op": "piece", "piece": 0}])
    edit_json(folder, CATALOG, "prompt", "candidate", to=[{"op": "item_field", "field": "title"}] * 30)


@ends_in("OK", found="running")
def prompts_said_to_be_endless(folder: Path) -> None:
    for key in ("max_prefix_tokens", "max_candidate_tokens"):
        edit_json(folder, CATALOG, "prompt", key, to=(1 << 31) - 1)


@ends_in("OK", found="running")
def prompts_said_to_take_gigabytes(folder: Path) -> None:
    edit_json(folder, CATALOG, "prompt", "max_prefix_tokens", to=1 << 26)
