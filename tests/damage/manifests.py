"""JSON that is none, and manifests that say what cannot be or do not belong together."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from builders.bundles.bundle_files import drop_catalog, entry, refresh
from builders.bundles.model import POSITIONS
from damage.table import (
    CATALOG,
    DELETE,
    ITEMS,
    MANIFEST,
    PIECES,
    SEGMENT,
    USERS,
    VARIANT,
    Case,
    Damage,
    Row,
    case,
    change_json,
    grown,
    linked,
    removed,
    replaced,
    table,
)

LISTED = {"bytes": 1, "sha256": "0" * 64}


def manifest_of(text: str) -> Damage:
    return replaced(MANIFEST, text.encode())


def half(folder: Path) -> None:
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(text[: len(text) // 2])


def refreshed(name: str, exported: str | None = None) -> Damage:
    """As if the catalog in the folder `name` had been swapped in for one with the digest `exported`; None: the exported one."""

    def damage(folder: Path) -> None:
        digest = json.loads((folder / VARIANT).read_text())["catalog_sha256"] if exported is None else exported
        change_json(folder, MANIFEST, {"/catalog": {"folder": name, "exported_sha256": digest}})

    return damage


def without_catalog(name: str, names: str, at: dict[str, Any], file: str = MANIFEST, status: str = "CORRUPT") -> Row:
    """Of a bundle that takes token ids alone."""
    return Row(name, status, names, file, at, first=drop_catalog)


CASES = table(
    Case("empty_manifest", "CORRUPT", "manifest.json", manifest_of("")),
    Case("half_a_manifest", "CORRUPT", "not valid JSON", half),
    Case("manifest_that_is_an_array", "CORRUPT", "manifest.json", manifest_of("[1]")),
    Case("deeply_nested_json", "CORRUPT", "deep", manifest_of('{"schema": 3, "x": ' + "[" * 100_000 + "]" * 100_000 + "}")),
    Case("endless_json", "CORRUPT", "bytes of JSON", manifest_of('{"schema": 3' + " " * (16 << 20) + "}")),
    Case("endless_list_of_exits", "CORRUPT", "values", manifest_of('{"schema": 3, "exits": [' + "1," * (7 << 20) + "1]}")),
    Case(
        "as_many_values_as_are_allowed",
        "CORRUPT",
        "`model` is missing",
        manifest_of('{"schema": 3, "exits": [' + "{}," * 65_532 + "{}]}"),
    ),
    Case("json_that_is_not_utf8", "CORRUPT", "not valid JSON", replaced(MANIFEST, b'{"schema": 3, "producer": "\xff\xfe"}')),
    Row("newer_schema", "UNSUPPORTED", "schema 4, this version reads schema 3", MANIFEST, {"/schema": 4}),
    Row("older_schema_of_the_manifest", "UNSUPPORTED", "make it again with `rexit export`", MANIFEST, {"/schema": 2}),
    Row("older_schema_of_the_variant", "UNSUPPORTED", "make it again with `rexit export`", VARIANT, {"/schema": 2}),
    Row("older_schema_of_the_catalog", "UNSUPPORTED", "make it again with `rexit index`", CATALOG, {"/schema": 2}),
    Row("unknown_requirement_of_the_manifest", "UNSUPPORTED", "time-travel", MANIFEST, {"/requires": ["time-travel"]}),
    Row("no_exits", "CORRUPT", "exits", MANIFEST, {"/exits": []}),
    Row("exits_that_descend", "CORRUPT", "exits[1]", MANIFEST, {"/exits": [2, 1, 4]}),
    Row("exits_short_of_the_model", "CORRUPT", "exits", MANIFEST, {"/exits": [1, 2, 3]}),
    Row("negative_heads", "CORRUPT", "kv_heads", MANIFEST, {"/model/kv_heads": -1}),
    Row(
        "model_larger_than_any_memory",
        "CORRUPT",
        "kv_heads",
        MANIFEST,
        {"/model/kv_heads": 1 << 20, "/model/head_dim": 1 << 20, "/model/max_positions": 1 << 24},
    ),
    Row("no_tokens_at_all", "CORRUPT", "max_tokens", VARIANT, {"/limits/max_tokens": 0}),
    Row("more_positions_than_the_model", "CORRUPT", "max_positions", VARIANT, {"/limits/max_positions": POSITIONS + 1}),
    Row("no_variants", "CORRUPT", "variants", MANIFEST, {"/variants": []}),
    Row("unknown_backend", "UNSUPPORTED", "abacus", VARIANT, {"/backend": "abacus"}),
    Row("foreign_checkpoint", "MISMATCH", "checkpoint_sha256", VARIANT, {"/checkpoint_sha256": "0" * 64}),
    Case("refreshed_bundle_of_another_export", "MISMATCH", "catalog_sha256", refreshed("catalog", "0" * 64)),
    Case("refreshed_catalog_that_is_not_listed", "CORRUPT", "not list `catalog-1/catalog.json`", refreshed("catalog-1")),
    Case("refreshed_catalog_outside", "CORRUPT", "`..`", refreshed("..")),
    Case("refreshed_catalog_in_a_folder", "CORRUPT", "not a plain name", refreshed("variants/cpu-fp32")),
    Case("refreshed_catalog_in_its_old_place", "OK", "", refreshed("catalog"), "running"),
    # Not damage, but a request that names users and items.
    Case("no_catalog", "INVALID_ARGUMENT", "the bundle has no catalog", drop_catalog, "running"),
    without_catalog(
        "tokens_without_a_length", "`max_candidate_tokens` is missing", {"/tokens": {"labels": {}, "max_prefix_tokens": 20}}
    ),
    without_catalog("tokens_with_a_negative_length", "max_prefix_tokens: is -1", {"/tokens/max_prefix_tokens": -1}),
    without_catalog("tokens_and_a_catalog", "and `catalog`", {"/catalog": {"folder": "catalog", "exported_sha256": "0" * 64}}),
    without_catalog(
        "variant_of_a_catalog_in_a_bundle_without",
        "was made for a catalog, the bundle has none",
        {"/catalog_sha256": "0" * 64},
        file=VARIANT,
        status="MISMATCH",
    ),
    without_catalog("no_catalog_and_no_tokens", "does not list `catalog/catalog.json`", {"/tokens": DELETE}),
    # Files that are missing, cut short, elsewhere or no files
    Row(
        "exit_zero_without_numbers",
        "CORRUPT",
        "begin with 0, but the catalog's prompt has no `numbers`",
        MANIFEST,
        {"/exits": [0, 1, 2, 4]},
    ),
    Case("missing_manifest", "NOT_FOUND", "manifest.json", removed(MANIFEST)),
    Case("grown_weights", "CORRUPT", "segment-1.onnx.data", grown(f"{SEGMENT}.data")),
    Case("symbolic_link_to_a_table", "CORRUPT", "link", linked(PIECES)),
    Case("symbolic_link_to_a_folder", "CORRUPT", "link", linked("catalog")),
    Case("symbolic_link_to_the_manifest", "CORRUPT", "link", linked(MANIFEST)),
    Case("missing_segment", "NOT_FOUND", "segment-1.onnx", removed(SEGMENT)),
    Row("negative_size", "CORRUPT", "bytes", MANIFEST, {f"/files/{USERS.replace('/', '~1')}/bytes": -1}),
    Row("digest_that_is_none", "CORRUPT", "sha256", MANIFEST, {f"/files/{USERS.replace('/', '~1')}/sha256": "../../etc"}),
    Row("path_that_leaves_the_folder", "CORRUPT", "../outside", MANIFEST, {"/files/..~1outside": LISTED}),
    Row("absolute_path", "CORRUPT", "/etc/passwd", MANIFEST, {"/files/~1etc~1passwd": LISTED}),
    Row("path_with_an_empty_part", "CORRUPT", "catalog//users", MANIFEST, {"/files/catalog~1~1users.safetensors": LISTED}),
    Row("graph_path_that_leaves_the_folder", "CORRUPT", "a/../../b", VARIANT, {"/segments/1/graph": "a/../../b"}),
    Row("variant_name_that_leaves_the_folder", "CORRUPT", "../cpu-fp32", MANIFEST, {"/variants": ["../cpu-fp32"]}),
    Row(
        "segment_that_begins_behind_a_gap",
        "CORRUPT",
        "segments[1] layers[0]: is 2, expected 1",
        VARIANT,
        {"/segments/1/layers/0": 2},
    ),
    Row("segment_that_ends_at_no_exit", "CORRUPT", "is 3, which is not one of", VARIANT, {"/segments/1/layers/1": 3}),
    Row(
        "last_segment_missing", "CORRUPT", "has 2 segments, of which 2 end after 2 of 4 layers", VARIANT, {"/segments/2": DELETE}
    ),
    Row("fewer_exits_than_the_manifest", "OK", "", MANIFEST, {"/exits": [1, 2, 3, 4]}, "running"),
    Row("graph_that_is_not_listed", "CORRUPT", "other.onnx", VARIANT, {"/segments/1/graph": "other.onnx"}),
)


@case("CORRUPT", "has 4 segments, of which 3 end after 4 of 4 layers")
def segment_behind_the_last(folder: Path) -> None:
    segments = json.loads((folder / VARIANT).read_text())["segments"]
    change_json(folder, VARIANT, {"/segments": [*segments, segments[-1]]})
    refresh(folder)


@case("MISMATCH", "catalog_sha256")
def foreign_catalog(folder: Path) -> None:
    change_json(folder, VARIANT, {"/catalog_sha256": "0" * 64})
    change_json(folder, MANIFEST, {f"/files/{VARIANT.replace('/', '~1')}": entry(folder / VARIANT)})


@case("CORRUPT", "items.safetensors")
def truncated_table(folder: Path) -> None:
    os.truncate(folder / ITEMS, (folder / ITEMS).stat().st_size - 1)


@case("CORRUPT", "plain file")
def folder_in_place_of_a_table(folder: Path) -> None:
    (folder / PIECES).unlink()
    (folder / PIECES).mkdir()


@case("CORRUPT", "plain file")
def fifo_in_place_of_the_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()
    os.mkfifo(folder / MANIFEST)


CASES |= table(
    foreign_catalog,
    segment_behind_the_last,
    truncated_table,
    folder_in_place_of_a_table,
    fifo_in_place_of_the_manifest,
)
