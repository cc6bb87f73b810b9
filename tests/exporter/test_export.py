"""`rexit export` as a whole: what it writes, what it refuses, and that it leaves nothing half-written."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders.bundles.bundle_files import edit_json, names
from builders.models.checkpoints import tiny_checkpoint
from builders.policies import full_depth
from rexit.errors import InputError, ParityError, RexitError
from rexit.exporter import export as module
from rexit.exporter.checkpoints.checkpoint import load_checkpoint
from rexit.exporter.export import export_bundle
from rexit.exporter.options import ExportOptions
from rexit.exporter.preflight import check_trained_on, existing
from rexit.exporter.prompt.builder import PromptBuilder, RowSlate
from rexit.format.bundle import Bundle, Catalog, digest
from running.command import Run, assert_one_line
from running.exporting import Export


def test_bundle_is_what_the_format_says(exported: Path, catalog_folder: Path) -> None:
    bundle = Bundle.open(exported)
    assert bundle.manifest.exits == (1, 2, 4) and bundle.manifest.variants == ("cpu-fp32",)
    assert bundle.manifest.model.family == "llama" and bundle.manifest.model.max_positions == 256
    assert bundle.manifest.model.head == "own" and bundle.manifest.roles is None, "nobody chose"
    assert [s.layers for s in bundle.variant.segments] == [(0, 1), (1, 2), (2, 4)]
    assert bundle.edited() == []
    assert names(exported / "catalog") == ["catalog.json", "items.safetensors", "pieces.safetensors", "users.safetensors"]
    assert digest(exported / "catalog" / "catalog.json") == Catalog.open(catalog_folder).sha256 == bundle.variant.catalog_sha256
    assert names(bundle.folder) == sorted([*bundle.variant.files, "variant.json"])
    assert [row["layers"] for row in bundle.variant.parity["exits"]] == [1, 2, 4]
    assert max(row[mode] for row in bundle.variant.parity["exits"] for mode in ("single", "cached", "slate")) < 1e-4
    assert not list(exported.parent.glob(".*"))


def test_golden_samples_are_real_prompts(exported: Path, catalog_folder: Path) -> None:
    bundle = Bundle.open(exported)
    slates = bundle.golden().slates
    split = Catalog.open(catalog_folder).split("validation")
    assert len(slates) == 6
    builder = PromptBuilder(bundle.catalog)
    for slate in slates:
        own_rows = split.users == slate.user
        assert slate.items.tolist() == split.items[own_rows].tolist()
        assert slate.as_of == split.times[own_rows][0]
        (prompt,) = builder.prompts([RowSlate(slate.user, slate.items, slate.as_of)])
        np.testing.assert_array_equal(prompt.prefix, slate.prefix)
        assert [c.tolist() for c in prompt.candidates] == [c.tolist() for c in slate.candidates]


def test_existing_bundle_keeps_its_other_variants(export: Export, bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    other = bundle / "variants" / "cpu-other"
    shutil.copytree(bundle / "variants" / "cpu-fp32", other)
    (other / "variant.json").write_text((other / "variant.json").read_text().replace('"cpu-fp32"', '"cpu-other"'))
    entry = {"bytes": (other / "variant.json").stat().st_size, "sha256": digest(other / "variant.json")}
    manifest["variants"].append("cpu-other")
    manifest["files"]["variants/cpu-other/variant.json"] = entry
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    for name in ("cpu-fp32", "cpu-other"):
        full_depth(3, manifest["files"][f"variants/{name}/variant.json"]["sha256"]).write(
            bundle / "variants" / name / "policy.json"
        )
    export(bundle, golden_slates=2)
    old, new = Bundle.open(bundle, "cpu-other"), Bundle.open(bundle, "cpu-fp32")
    assert old.manifest.variants == ("cpu-fp32", "cpu-other")
    assert old.edited() == [] == new.edited()
    assert old.policy() is not None and new.policy() is None


@pytest.mark.parametrize("other", ["checkpoint", "exits", "heads"])
def test_bundle_of_another_origin_is_refused(
    bundle: Path, checkpoint_folder: Path, catalog_folder: Path, tmp_path: Path, other: str
) -> None:
    before = digest(bundle / "manifest.json")
    different = tiny_checkpoint(tmp_path / "other", catalog=Catalog.open(catalog_folder), rms_norm_eps=1e-4)
    checkpoint = different if other == "checkpoint" else checkpoint_folder
    heads = r"choice of heads \(own, these are shared\)"
    args, message = {
        "checkpoint": ({}, "checkpoint;"),
        "exits": ({"exits": [2, 4], "head": "shared"}, f"{heads} and choice of exits;"),
        # The same exits: only whose heads they are differs, as in fp32 with one and int8 with the other.
        "heads": ({"precisions": ["int8"], "accept_loss": True, "head": "shared"}, f"{heads};"),
    }[other]
    with pytest.raises(InputError, match=f"bundle: holds a bundle made from another {message} remove it or choose another place"):
        export_bundle(checkpoint, catalog_folder, bundle, ExportOptions(**args))  # type: ignore[arg-type]
    assert digest(bundle / "manifest.json") == before and names(bundle.parent) == ["bundle"]


def test_folder_that_is_no_bundle_is_never_replaced(export: Export, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="exists and is not a bundle"):
        export(tmp_path)
    assert names(tmp_path) == ["thesis.txt"]


def test_parity_above_the_tolerance_writes_nothing(export: Export, tmp_path: Path) -> None:
    with pytest.raises(ParityError, match=r"exit after layer \d, \w+: .* is allowed; not written$") as caught:
        export(tolerance=1e-12, golden_slates=2)
    assert caught.value.exit_code == 5
    assert names(tmp_path) == []


def test_edited_catalog_is_refused(checkpoint_folder: Path, catalog_folder: Path, tmp_path: Path) -> None:
    catalog = Path(shutil.copytree(catalog_folder, tmp_path / "catalog"))
    table = bytearray((catalog / "pieces.safetensors").read_bytes())
    table[-4] ^= 1
    (catalog / "pieces.safetensors").write_bytes(table)
    with pytest.raises(RexitError, match=r"pieces.safetensors: SHA-256 .*edited"):
        export_bundle(checkpoint_folder, catalog, tmp_path / "bundle")
    assert names(tmp_path) == ["catalog"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_position_embeddings": 62}, r"47 \+ 16 = 63 tokens .*, the model takes 62"),
        ({"vocab_size": 90}, "tokenizer has 95 tokens, the model's embeddings only 90"),
    ],
    ids=["prompt longer than the limit", "vocabulary too small"],
)
def test_model_that_does_not_fit_the_catalog(catalog_folder: Path, tmp_path: Path, changes: dict[str, int], message: str) -> None:
    checkpoint = tiny_checkpoint(tmp_path / "checkpoint", catalog=Catalog.open(catalog_folder), **changes)
    with pytest.raises(InputError, match=message):
        export_bundle(checkpoint, catalog_folder, tmp_path / "bundle")
    assert names(tmp_path) == ["checkpoint"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_tokens": 15}, "a candidate has up to 16 tokens, more than the 15"),
        ({"max_tokens": 0}, "expected at least 1"),
        ({"tolerance": 0.0}, "expected a number above 0"),
        ({"golden_slates": 0}, "expected at least 1"),
        ({"precisions": ["int3"]}, "no target 'cpu' with precision 'int3'"),
        ({"target": "tensorrt"}, "no target 'tensorrt' with precision 'fp32'; .*--target tensorrt --precision fp16.int8"),
        ({"target": "tpu", "precisions": ["int8"]}, "no target 'tpu' with precision 'int8'"),
        ({"precisions": ["fp32", ""]}, "no target 'cpu' with precision ''; known are: --target cpu --precision fp32.bf16"),
        ({"precisions": ["int8", "int8"]}, "precisions int8, int8: expected at least one, and none twice"),
        ({"precisions": []}, "precisions none: expected at least one"),
        ({"precisions": ["int8"], "quality_slates": 1}, "1 validation slates of 1 users: 1 users are too few to judge"),
        ({"precisions": ["int8"], "quality_slates": -1}, "expected at least 1, or 0 for all"),
    ],
)
def test_options_out_of_range(export: Export, tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        export(**arguments)
    assert names(tmp_path) == []


def test_unwritable_output(export: Export, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file/bundle: cannot be written: "):
        export(tmp_path / "file" / "bundle")


def test_too_little_space_is_seen_before_the_work(export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _path: usage._replace(free=1000))
    with pytest.raises(InputError, match=r"the bundle needs about \d+ MB, 0 MB are free"):
        export()
    assert names(tmp_path) == []


def test_command(run_export: Run) -> None:
    report = run_export("--golden", 2, "--exits", "1,2,4", "--json").json
    assert report["exits"] == [1, 2, 4] and [v["name"] for v in report["variants"]] == ["cpu-fp32"]
    variant = report["variants"][0]
    assert len(variant["segments"]) == len(variant["parity"]) == 3
    assert all(segment["bytes"] > 4 * segment["parameters"] * 0.9 for segment in variant["segments"])


def test_a_catalog_that_the_model_was_not_trained_on_is_refused(run_export: Run, catalog_folder: Path, tmp_path: Path) -> None:
    """A model of films scores books, or the neighbours of another training, without a word."""
    other = Path(shutil.copytree(catalog_folder, tmp_path / "other"))
    embedding = Catalog.open(other).info["embedding"]
    edit_json(other / "catalog.json", embedding=embedding | {"space": "0" * 64})
    words = ("--catalog", other, "--golden", 1)
    message = f"trained on a catalog with another space of embeddings than {other}: use that catalog, or an update"
    assert_one_line(run_export(*words), 2, message)
    assert names(tmp_path) == ["other"]
    assert run_export(*words, "--accept-catalog").code == 0


def test_traits_are_compared_by_name(checkpoint_folder: Path, catalog_folder: Path) -> None:
    checkpoint, catalog = load_checkpoint(checkpoint_folder), Catalog.open(catalog_folder)
    check_trained_on(checkpoint, catalog)
    strange = replace(checkpoint, catalog=dict.fromkeys(catalog.traits, "0" * 64))
    with pytest.raises(InputError, match="another tokenizer and another prompt program and another space of embeddings than"):
        check_trained_on(strange, catalog)
    with pytest.raises(InputError, match=r"exits.json has no `catalog`, which says .*--accept-catalog"):
        check_trained_on(replace(checkpoint, catalog=None), catalog)
    check_trained_on(replace(checkpoint, catalog=None, path=catalog_folder), catalog)  # a decoder without exits.json


@pytest.mark.parametrize("exits", ["2;4", "two", ""])
def test_exits_that_are_no_numbers(run_export: Run, exits: str) -> None:
    assert_one_line(run_export("--exits", exits), 2, "expected depths in layers, e.g. 2,4,6")


@pytest.mark.slow
def test_a_model_that_cannot_be_rotated_is_exported_as_it_is(run: Run, catalog_folder: Path, tmp_path: Path) -> None:
    """And both the command and variant.json say why."""
    reason = "olmo2: its layers lack `input_layernorm`"
    checkpoint = tiny_checkpoint(tmp_path / "checkpoint", family="olmo2", catalog=Catalog.open(catalog_folder), exits=(4,))
    ended = run("export", checkpoint, "--catalog", catalog_folder, "--golden", 2, "--out", tmp_path / "bundle")
    assert ended.code == 0, ended.err
    assert f"not rotated, so that lower precisions may lose more: {reason}" in ended.out + ended.err
    assert Bundle.open(tmp_path / "bundle").variant.unrotated == reason


def test_only_a_bundle_or_an_empty_folder_is_replaced(exported: Path, tmp_path: Path) -> None:
    (empty := tmp_path / "empty").mkdir()
    assert existing(tmp_path / "none") is None and existing(empty) is None
    assert existing(exported) == Bundle.open(exported).manifest
    (file := tmp_path / "file").write_text("")
    (link := tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for place in (file, link, tmp_path):
        with pytest.raises(InputError, match="exists and is not a bundle; it would be replaced, so choose another place"):
            existing(place)
