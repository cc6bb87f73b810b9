"""JSON that is none, and manifests that say what cannot be or do not belong together."""

from __future__ import annotations

import json
from pathlib import Path

from builders.bundles.bundle_files import drop_catalog, entry, write_json
from builders.bundles.model import POSITIONS
from damage.cases import Cases
from damage.edits import CATALOG, MANIFEST, VARIANT, edit_json

CASES = Cases("opening")
ends_in = CASES.ends_in


@ends_in("CORRUPT", "manifest.json")
def empty_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text("")


@ends_in("CORRUPT", "not valid JSON")
def half_a_manifest(folder: Path) -> None:
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(text[: len(text) // 2])


@ends_in("CORRUPT", "manifest.json")
def manifest_that_is_an_array(folder: Path) -> None:
    (folder / MANIFEST).write_text("[1]")


@ends_in("CORRUPT", "deep")
def deeply_nested_json(folder: Path) -> None:
    (folder / MANIFEST).write_text('{"schema": 1, "x": ' + "[" * 100_000 + "]" * 100_000 + "}")


@ends_in("CORRUPT", "bytes of JSON")
def endless_json(folder: Path) -> None:
    (folder / MANIFEST).write_text('{"schema": 1' + " " * (16 << 20) + "}")


@ends_in("CORRUPT", "values")
def endless_list_of_exits(folder: Path) -> None:
    (folder / MANIFEST).write_text('{"schema": 1, "exits": [' + "1," * (7 << 20) + "1]}")


@ends_in("CORRUPT", "`model` is missing")
def as_many_values_as_are_allowed(folder: Path) -> None:
    (folder / MANIFEST).write_text('{"schema": 1, "exits": [' + "{}," * 65_532 + "{}]}")


@ends_in("CORRUPT", "not valid JSON")
def json_that_is_not_utf8(folder: Path) -> None:
    (folder / MANIFEST).write_bytes(b'{"schema": 1, "producer": "\xff\xfe"}')


@ends_in("UNSUPPORTED", "schema")
def newer_schema(folder: Path) -> None:
    edit_json(folder, MANIFEST, "schema", to=2)


@ends_in("CORRUPT", "schema")
def schema_as_text(folder: Path) -> None:
    edit_json(folder, MANIFEST, "schema", to="1")


@ends_in("UNSUPPORTED", "time-travel")
def unknown_requirement_of_the_manifest(folder: Path) -> None:
    edit_json(folder, MANIFEST, "requires", to=["time-travel"])


@ends_in("UNSUPPORTED", "time-travel")
def unknown_requirement_of_the_variant(folder: Path) -> None:
    edit_json(folder, VARIANT, "requires", to=["time-travel"])


@ends_in("UNSUPPORTED", "time-travel")
def unknown_requirement_of_the_catalog(folder: Path) -> None:
    edit_json(folder, CATALOG, "requires", to=["time-travel"])


@ends_in("CORRUPT", "exits")
def no_exits(folder: Path) -> None:
    edit_json(folder, MANIFEST, "exits", to=[])


@ends_in("CORRUPT", "exits[1]")
def exits_that_descend(folder: Path) -> None:
    edit_json(folder, MANIFEST, "exits", to=[2, 1, 4])


@ends_in("CORRUPT", "exits")
def exits_short_of_the_model(folder: Path) -> None:
    edit_json(folder, MANIFEST, "exits", to=[1, 2, 3])


@ends_in("CORRUPT", "hidden_size")
def absurd_hidden_size(folder: Path) -> None:
    edit_json(folder, MANIFEST, "model", "hidden_size", to=1 << 62)


@ends_in("CORRUPT", "kv_heads")
def negative_heads(folder: Path) -> None:
    edit_json(folder, MANIFEST, "model", "kv_heads", to=-1)


@ends_in("CORRUPT", "kv_heads")
def model_larger_than_any_memory(folder: Path) -> None:
    for key, value in {"kv_heads": 1 << 20, "head_dim": 1 << 20, "max_positions": 1 << 24}.items():
        edit_json(folder, MANIFEST, "model", key, to=value)


@ends_in("CORRUPT", "opset")
def variant_without_an_opset(folder: Path) -> None:
    edit_json(folder, VARIANT, "opset", to=None)


@ends_in("CORRUPT", "max_tokens")
def no_tokens_at_all(folder: Path) -> None:
    edit_json(folder, VARIANT, "limits", "max_tokens", to=0)


@ends_in("CORRUPT", "max_positions")
def more_positions_than_the_model(folder: Path) -> None:
    edit_json(folder, VARIANT, "limits", "max_positions", to=POSITIONS + 1)


@ends_in("CORRUPT", "variants")
def no_variants(folder: Path) -> None:
    edit_json(folder, MANIFEST, "variants", to=[])


@ends_in("UNSUPPORTED", "abacus")
def unknown_backend(folder: Path) -> None:
    edit_json(folder, VARIANT, "backend", to="abacus")


# Files that do not belong together


@ends_in("MISMATCH", "catalog_sha256")
def foreign_catalog(folder: Path) -> None:
    edit_json(folder, VARIANT, "catalog_sha256", to="0" * 64, sealed=False)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"][VARIANT] = entry(folder / VARIANT)
    write_json(folder / MANIFEST, manifest)


@ends_in("MISMATCH", "checkpoint_sha256")
def foreign_checkpoint(folder: Path) -> None:
    edit_json(folder, VARIANT, "checkpoint_sha256", to="0" * 64)


def _refreshed(folder: Path, name: str, exported: str) -> None:
    """As if the catalog in `name` had been swapped in for one with the digest `exported`."""
    value = json.loads((folder / MANIFEST).read_text())
    write_json(folder / MANIFEST, {**value, "requires": ["refreshed"], "catalog": {"folder": name, "exported_sha256": exported}})


@ends_in("MISMATCH", "catalog_sha256")
def refreshed_bundle_of_another_export(folder: Path) -> None:
    _refreshed(folder, "catalog", "0" * 64)


@ends_in("CORRUPT", "not list `catalog-1/catalog.json`")
def refreshed_catalog_that_is_not_listed(folder: Path) -> None:
    _refreshed(folder, "catalog-1", json.loads((folder / VARIANT).read_text())["catalog_sha256"])


@ends_in("CORRUPT", "`..`")
def refreshed_catalog_outside(folder: Path) -> None:
    _refreshed(folder, "..", json.loads((folder / VARIANT).read_text())["catalog_sha256"])


@ends_in("CORRUPT", "not a plain name")
def refreshed_catalog_in_a_folder(folder: Path) -> None:
    _refreshed(folder, "variants/cpu-fp32", json.loads((folder / VARIANT).read_text())["catalog_sha256"])


@ends_in("OK", found="running")
def refreshed_catalog_in_its_old_place(folder: Path) -> None:
    _refreshed(folder, "catalog", json.loads((folder / VARIANT).read_text())["catalog_sha256"])


@ends_in("INVALID_ARGUMENT", "the bundle has no catalog", "running")
def no_catalog(folder: Path) -> None:
    """Not damage, but a request that names users and items."""
    drop_catalog(folder)


@ends_in("CORRUPT", "`max_candidate_tokens` is missing")
def tokens_without_a_length(folder: Path) -> None:
    drop_catalog(folder)
    edit_json(folder, MANIFEST, "tokens", to={"labels": {}, "max_prefix_tokens": 20})


@ends_in("CORRUPT", "max_prefix_tokens: is -1")
def tokens_with_a_negative_length(folder: Path) -> None:
    drop_catalog(folder)
    edit_json(folder, MANIFEST, "tokens", "max_prefix_tokens", to=-1)


@ends_in("CORRUPT", "and `catalog`")
def tokens_and_a_catalog(folder: Path) -> None:
    drop_catalog(folder)
    edit_json(folder, MANIFEST, "catalog", to={"folder": "catalog", "exported_sha256": "0" * 64})


@ends_in("MISMATCH", "was made for a catalog, the bundle has none")
def variant_of_a_catalog_in_a_bundle_without(folder: Path) -> None:
    drop_catalog(folder)
    edit_json(folder, VARIANT, "catalog_sha256", to="0" * 64)


@ends_in("CORRUPT", "does not list `catalog/catalog.json`")
def no_catalog_and_no_tokens(folder: Path) -> None:
    drop_catalog(folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["tokens"]
    write_json(folder / MANIFEST, manifest)
