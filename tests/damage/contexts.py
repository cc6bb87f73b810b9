"""Contexts: what catalog.json says of their values, and the ops that place them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from builders.bundles.bundle_files import refresh, write_json
from damage.cases import Cases
from damage.edits import CATALOG

CASES = Cases("opening")
ends_in = CASES.ends_in

DEVICE: dict[str, Any] = {"name": "device", "values": ["tv", "phone"], "unknown": "missing"}
OP: dict[str, Any] = {"op": "context", "name": "device", "values": [2, 3], "missing": 1}


def place(folder: Path, contexts: Any = (DEVICE,), op: Any = OP, requires: bool = True) -> None:
    """Puts contexts and an op at the end of the prefix into a bundle that has none."""
    info = json.loads((folder / CATALOG).read_text())
    info["requires"] = ["context"] if requires else []
    info["prompt"]["context"] = contexts
    info["prompt"]["prefix"].append(op)
    write_json(folder / CATALOG, info)
    refresh(folder)


@ends_in("OK", found="running")
def sound_context(folder: Path) -> None:
    """A request without one: words.missing."""
    place(folder)


@ends_in("INVALID_ARGUMENT", "context 'device' is missing, expected one of tv, phone", "running")
def context_that_the_request_lacks(folder: Path) -> None:
    place(folder, [{**DEVICE, "unknown": "refuse"}])


@ends_in("CORRUPT", "requires: lacks `context`")
def context_that_is_not_required(folder: Path) -> None:
    place(folder, requires=False)


@ends_in("CORRUPT", "`shoe` is not one of the prompt's `context`")
def op_of_an_unknown_context(folder: Path) -> None:
    place(folder, op={**OP, "name": "shoe"})


@ends_in("CORRUPT", "context: no op places `hour`")
def context_that_no_op_places(folder: Path) -> None:
    place(folder, [DEVICE, {"name": "hour", "bins": [0, 24], "unknown": "refuse"}])


@ends_in("CORRUPT", "name: `device` is taken")
def two_contexts_of_one_name(folder: Path) -> None:
    place(folder, [DEVICE, DEVICE])


@ends_in("CORRUPT", "values: has 1, expected 2")
def op_with_too_few_values(folder: Path) -> None:
    place(folder, op={**OP, "values": [2]})


@ends_in("CORRUPT", "values[1]")
def value_beyond_the_pieces(folder: Path) -> None:
    place(folder, op={**OP, "values": [2, 1 << 20]})


@ends_in("CORRUPT", "missing")
def op_without_the_missing_word(folder: Path) -> None:
    place(folder, op={name: value for name, value in OP.items() if name != "missing"})


@ends_in("CORRUPT", "expected `refuse` or `missing`")
def unknown_rule_for_unknown_values(folder: Path) -> None:
    place(folder, [{**DEVICE, "unknown": "guess"}])


@ends_in("CORRUPT", "expected either `values` or `bins`")
def values_and_bins(folder: Path) -> None:
    place(folder, [{**DEVICE, "bins": [0, 1, 2]}])


@ends_in("CORRUPT", "`tv` appears twice")
def value_listed_twice(folder: Path) -> None:
    place(folder, [{**DEVICE, "values": ["tv", "tv"]}])


@ends_in("CORRUPT", "expected 2 to 4097 ascending numbers")
def bins_out_of_order(folder: Path) -> None:
    place(folder, [{"name": "device", "bins": [0, 2, 1], "unknown": "missing"}])


@ends_in("CORRUPT", "bins: expected 2 to 4097 ascending numbers")
def a_single_edge(folder: Path) -> None:
    place(folder, [{"name": "device", "bins": [0], "unknown": "missing"}])


@ends_in("CORRUPT", "inside an `entry`")
def context_inside_an_entry(folder: Path) -> None:
    entry = {"op": "similar_liked", "limit": 1, "empty": 1, "entry": [OP]}
    place(folder, op=entry)
