"""Damage to a variant's engines, made for tests/cpp/backends/tensorrt_double."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from safetensors.numpy import load_file, save_file

from builders.bundles.bundle import BundleOptions, write_bundle
from builders.bundles.bundle_files import refresh
from builders.bundles.catalog import CatalogContents, make_catalog
from builders.bundles.engines import PROFILES, add_engines, profile_line
from builders.bundles.model import HIDDEN
from builders.bundles.variants import TENSORRT_HALF
from damage.catalogs import PREFIX_WITH_START
from damage.table import DELETE, ENGINE, ENGINES, Case, Row, case, change_json, change_plan, table, write_cases

OTHERS = Path(ENGINES).parent
"""Where engines for other machines are."""
PLAN = "segment-1.plan"


def row(name: str, status: str, names: str, at: dict[str, Any]) -> Row:
    return Row(name, status, names, ENGINE, at)


def plan(name: str, names: str, old: str, new: str, status: str = "CORRUPT", file: str = PLAN) -> Row:
    return Row(name, status, names, file, {old: new})


def refusing(name: str, names: str, refusal: str) -> Row:
    """The double refuses what its plan says."""
    return plan(name, f"{PLAN}: {names}", "working", f"refuse {refusal}\nworking", "BACKEND_FAILED")


CASES = table(
    Row("sound", "OK", "", ENGINE, {}, "reading"),
    row("stale_graph", "MISMATCH", "segments[1] graph_sha256: is ", {"/segments/1/graph_sha256": "0" * 64}),
    row(
        "stale_weights",
        "MISMATCH",
        "weights_sha256: is 000000000000…, the engine is stale: variant.json has",
        {"/segments/2/weights_sha256": "0" * 64},
    ),
    row("engine_of_another_variant", "MISMATCH", "variant: is another", {"/variant": "another"}),
    row(
        "engine_of_another_gpu_under_this_name",
        "MISMATCH",
        "compute_capability: is 8.9, this GPU's is 8.7",
        {"/gpu/compute_capability": "8.9"},
    ),
    row(
        "engine_of_another_tensorrt_under_this_name",
        "MISMATCH",
        "version: is 10.4.0, this TensorRT is 10.3.0",
        {"/builder/version": "10.4.0"},
    ),
    row("engine_of_another_compiler_under_this_name", "MISMATCH", "name: is tensorrt_rtx", {"/builder/name": "tensorrt_rtx"}),
    row("plan_that_is_not_listed", "CORRUPT", "does not list `other.plan`", {"/segments/1/plan": "other.plan"}),
    row("plan_that_leaves_the_folder", "CORRUPT", "../../segment-1.onnx", {"/segments/1/plan": "../../segment-1.onnx"}),
    row("absolute_plan", "CORRUPT", "/etc/passwd", {"/segments/1/plan": "/etc/passwd"}),
    row("older_engine_schema", "UNSUPPORTED", "make it again with `rexit compile`", {"/schema": 1}),
    row("newer_engine_schema", "UNSUPPORTED", "schema 3", {"/schema": 3}),
    row("unknown_requirement_of_the_engine", "UNSUPPORTED", "time-travel", {"/requires": ["time-travel"]}),
    row("too_few_segments", "CORRUPT", "has 1 segments, the variant has 3", {"/segments/2": DELETE, "/segments/1": DELETE}),
    row("profile_that_descends", "CORRUPT", "tokens[2]: is 20, expected 24", {"/segments/0/profiles/1/tokens": [1, 24, 20]}),
    row("profile_with_two_numbers", "CORRUPT", "rows: has 2 numbers", {"/segments/0/profiles/0/rows": [1, 24]}),
    row("profile_from_zero", "CORRUPT", "prefix[0]: is 0, expected 1", {"/segments/0/profiles/0/prefix": [0, 24, 60]}),
    row("no_profiles", "CORRUPT", "profiles: has 0 profiles, expected 1 to 8", {"/segments/0/profiles": []}),
    refusing(
        "plan_that_does_not_load",
        "TensorRT 10.3.0 could not load the engine: made on another device",
        "deserialize made on another device",
    ),
    plan(
        "plan_that_is_none",
        "segment-1.plan: TensorRT 10.3.0 could not load the engine: magic tag does not match",
        "a plan for",
        "no plan for",
        status="BACKEND_FAILED",
    ),
    plan(
        "plan_of_another_precision",
        "segment-1.plan: output `state_out` is float32, expected float16",
        "output state_out float16",
        "output state_out float32",
    ),
    plan("plan_with_other_names", "segment-1.plan: the engine has no input `owner`", "input owner", "input groups"),
    plan(
        "plan_of_another_shape",
        "output `label_logits` has shape [dynamic, 3], expected [dynamic, 2]",
        "float32 -1 2",
        "float32 -1 3",
    ),
    plan(
        "plan_with_one_input_too_many",
        "the engine has 11 inputs and outputs, the manifest names 10",
        "output label",
        "input more int64 -1\noutput label",
    ),
    plan(
        "plan_that_computes_shapes_from_an_input",
        "segment-1.plan: input `owner` is in host memory, expected GPU memory",
        "profile 1 60 1 1",
        "host owner\nprofile 1 60 1 1",
    ),
    # A compiler that has lost the static dimensions behind reshapes.
    plan(
        "plan_that_does_not_know_the_shapes_it_gives",
        "",
        "profile 1 60 1 1",
        "unknown label_logits\nunknown state_out\nunknown nk1\nprofile 1 60 1 1",
        "OK",
    ),
    plan(
        "plan_that_takes_any_shape",
        "input `state` has shape [dynamic, dynamic], expected [dynamic, 16]",
        "profile 1 60 1 1",
        "unknown state\nprofile 1 60 1 1",
    ),
    plan(
        "plan_whose_shortest_past_is_longer",
        "the minimum shape of input `pk1` in profile 1 is [2, 2, 8], engine.json says [2, 1, 8]",
        "profile 1 60 1 60",
        "profile 1 60 2 60",
    ),
    plan(
        "plan_of_another_size",
        "the maximum shape of input `ids` in profile 1 is [50], engine.json says [60]",
        "profile 1 60 1 60",
        "profile 1 50 1 60",
        file="segment-0.plan",
    ),
    plan("plan_with_one_profile", "segment-1.plan: the engine has 1 profiles, engine.json has 2", "profile 1 60 1 60 1 60\n", ""),
    refusing(
        "plan_that_is_not_enqueued", "TensorRT could not run the engine: a tactic is missing", "enqueue a tactic is missing"
    ),
    refusing("plan_without_context", "TensorRT could not create an execution context: too many", "context too many"),
    refusing("plan_that_fails_on_the_gpu", "CUDA: unspecified launch failure", "run"),
)


@case("NOT_FOUND", "it has none; run `rexit compile")
def no_engines(folder: Path) -> None:
    shutil.rmtree(folder / OTHERS)


@case("NOT_FOUND", "it has sm86-rtx1.2.0, sm86-trt10.3.0, sm87-trt10.2.0; run `rexit compile")
def engines_of_other_machines(folder: Path) -> None:
    shutil.rmtree(folder / ENGINES)
    for key in ("sm86-trt10.3.0", "sm87-trt10.2.0"):
        add_engines(folder, key)
    (folder / OTHERS / "sm86-rtx1.2.0").mkdir()
    (folder / OTHERS / ".sm87-trt10.3.0.tmp-1").mkdir()
    (folder / OTHERS / "sm\nrm -rf").mkdir()
    (folder / OTHERS / "sm87-trt10.3.0.timing").write_text("")


@case("NOT_FOUND", "segment-1.plan")
def missing_plan(folder: Path) -> None:
    (folder / ENGINES / PLAN).unlink()


@case("CORRUPT", "truncated or edited")
def grown_plan(folder: Path) -> None:
    with open(folder / ENGINES / PLAN, "ab") as file:
        file.write(b"\n")


@case("CORRUPT", "is a symbolic link")
def plan_that_is_a_link(folder: Path) -> None:
    link(folder / ENGINES / PLAN, folder)


@case("CORRUPT", "is a symbolic link")
def engine_folder_that_is_a_link(folder: Path) -> None:
    link(folder / ENGINES, folder)


@case("CORRUPT", "is a symbolic link")
def engines_folder_that_is_a_link(folder: Path) -> None:
    link(folder / OTHERS, folder)


def link(path: Path, folder: Path) -> None:
    """Moves what is there, and links to it."""
    path.rename(folder / "elsewhere")
    path.symlink_to(folder / "elsewhere")


@case("CORRUPT", "is not a folder")
def file_in_place_of_the_engine_folder(folder: Path) -> None:
    shutil.rmtree(folder / ENGINES)
    (folder / ENGINES).write_text("")


@case("NOT_FOUND", "engine.json")
def engine_folder_without_engine_json(folder: Path) -> None:
    (folder / ENGINE).unlink()


@case("CORRUPT", "not valid JSON")
def half_an_engine_json(folder: Path) -> None:
    (folder / ENGINE).write_text((folder / ENGINE).read_text()[:200])


@case("CORRUPT", "deep")
def deeply_nested_engine_json(folder: Path) -> None:
    (folder / ENGINE).write_text('{"schema": 2, "x": ' + "[" * 100_000)


@case("UNSUPPORTED", "variant.json: the graphs do not mask past_padding, which engines need; export again")
def graphs_that_do_not_mask_padding(folder: Path) -> None:
    change_json(folder, f"variants/{TENSORRT_HALF}/variant.json", {"/past_padding": DELETE})
    refresh(folder, TENSORRT_HALF)


CASES |= table(
    no_engines,
    engines_of_other_machines,
    missing_plan,
    grown_plan,
    plan_that_is_a_link,
    engine_folder_that_is_a_link,
    engines_folder_that_is_a_link,
    file_in_place_of_the_engine_folder,
    engine_folder_without_engine_json,
    half_an_engine_json,
    deeply_nested_engine_json,
    graphs_that_do_not_mask_padding,
)


def smaller(name: str, names: str, segment: int, profile: int, what: str, to: tuple[int, int, int]) -> Case:
    """Another profile, in the plan too."""

    def damage(folder: Path) -> None:
        old = PROFILES[profile]
        new = msgspec.structs.replace(old, **{what: to})
        change_plan(folder, f"segment-{segment}.plan", {profile_line(old): profile_line(new)})
        change_json(folder, ENGINE, {f"/segments/{segment}/profiles/{profile}/{what}": to})

    return Case(name, "TOO_LONG", names, damage, "running")


CASES |= table(
    smaller("profile_too_short_for_the_prefix", " tokens, the engine was compiled for 1 to 10", 1, 0, "tokens", (1, 5, 10)),
    smaller("profile_with_too_few_rows", " rows, the engine was compiled for 1 to 1", 0, 1, "rows", (1, 1, 1)),
    smaller("profile_for_shorter_prefixes", " prefix tokens, the engine was compiled for 1 to 2", 0, 1, "prefix", (1, 2, 2)),
)

WITH_START = table(Row("sound_with_start", "OK", "", ENGINE))
INPUT = f"input given float32 -1 {HIDDEN}"
WITH_VECTORS = table(
    Row("sound_with_vectors", "OK", "", ENGINE),
    plan(
        "plan_that_takes_no_vectors",
        "segment-0.plan: the engine has no input `given`",
        f"vocabulary 64\n{INPUT}\n",
        "",
        file="segment-0.plan",
    ),
    plan(
        "plan_that_takes_halves_for_vectors",
        "segment-0.plan: input `given` is float16, expected float32",
        "input given float32",
        "input given float16",
        file="segment-0.plan",
    ),
    plan(
        "plan_that_takes_wider_vectors",
        "segment-0.plan: input `given` has shape [dynamic, 17], expected [dynamic, 16]",
        INPUT,
        f"input given float32 -1 {HIDDEN + 1}",
        file="segment-0.plan",
    ),
)


def write_numbers(folder: Path) -> None:
    """What the double computes with: integers below 251, told by the id, and the same for every user."""
    path = folder / "vectors.safetensors"
    tables, first = load_file(path), 0
    for name in ("gcn", "title:2"):
        rows = np.arange(tables[name][..., 0].size) + first
        numbers = (7 * rows[:, None] + 3 * np.arange(HIDDEN) + 5) % 251
        tables[name], first = numbers.astype(np.float16).reshape(tables[name].shape), first + len(rows)
    tables["user.none"] = ((5 * np.arange(HIDDEN) + 11) % 251).astype(np.float16)
    tables["user"] = np.tile(tables["user.none"], (len(tables["user"]), 1))
    save_file(tables, path)
    refresh(folder)


def write_engines(place: Path) -> None:
    """A bundle with damaged engines for each case."""
    plain = write_bundle(place / ".plain", BundleOptions(variants=(TENSORRT_HALF,)))
    add_engines(plain)
    write_cases(CASES, plain, place)
    shutil.rmtree(plain)
    catalog = make_catalog()
    info = {**catalog.info, "prompt": {**catalog.info["prompt"], "prefix": PREFIX_WITH_START}}
    write_bundle(plain, BundleOptions(CatalogContents(info, catalog.tables), variants=(TENSORRT_HALF,)))
    add_engines(plain)
    write_cases(WITH_START, plain, place)
    shutil.rmtree(plain)
    write_bundle(plain, BundleOptions(make_catalog(vectors=True), variants=(TENSORRT_HALF,)))
    write_numbers(plain)
    add_engines(plain)
    write_cases(WITH_VECTORS, plain, place)
    shutil.rmtree(plain)
