"""Damage to a variant's engines, made for tests/cpp/backends/tensorrt_double."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from builders.bundles.bundle import BundleOptions, write_bundle
from builders.bundles.bundle_files import refresh
from builders.bundles.catalog import CatalogContents, make_catalog
from builders.bundles.engines import add_engines, tensor
from builders.bundles.variants import TENSORRT_HALF
from damage.catalogs import PREFIX_WITH_START
from damage.table import (
    DELETE,
    ENGINE,
    ENGINES,
    Case,
    Row,
    case,
    change_json,
    change_plan,
    grown,
    linked,
    removed,
    table,
    write_cases,
)

OTHERS = Path(ENGINES).parent
"""Where engines for other machines are."""
PLAN = "segment-1.plan"


def row(name: str, names: str, at: dict[str, Any], status: str = "CORRUPT") -> Row:
    return Row(name, status, names, ENGINE, at)


def plan(name: str, names: str, at: dict[str, Any], status: str = "CORRUPT", segment: int = 1) -> Row:
    """A plan of the double that says something else."""
    return Row(name, status, names, f"{ENGINES}/segment-{segment}.plan", at)


def refusing(name: str, names: str, call: str, reason: str = "") -> Row:
    """The double refuses what its plan says."""
    return plan(name, f"{PLAN}: {names}", {"/refuse": {call: reason}}, "BACKEND_FAILED")


CASES = table(
    Row("sound", "OK", "", ENGINE, {}, "reading"),
    row("stale_graph", "segments[1] graph_sha256: is ", {"/segments/1/graph_sha256": "0" * 64}, "MISMATCH"),
    row(
        "stale_weights",
        "weights_sha256: is 000000000000…, the engine is stale: variant.json has",
        {"/segments/2/weights_sha256": "0" * 64},
        "MISMATCH",
    ),
    row("engine_of_another_variant", "variant: is another", {"/variant": "another"}, "MISMATCH"),
    row(
        "engine_of_another_gpu_under_this_name",
        "compute_capability: is 8.9, this GPU's is 8.7",
        {"/gpu/compute_capability": "8.9"},
        "MISMATCH",
    ),
    row(
        "engine_of_another_tensorrt_under_this_name",
        "version: is 10.4.0, this TensorRT is 10.3.0",
        {"/builder/version": "10.4.0"},
        "MISMATCH",
    ),
    row("engine_of_another_compiler_under_this_name", "name: is tensorrt_rtx", {"/builder/name": "tensorrt_rtx"}, "MISMATCH"),
    row("plan_that_is_not_listed", "does not list `other.plan`", {"/segments/1/plan": "other.plan"}),
    row("plan_that_leaves_the_folder", "../../segment-1.onnx", {"/segments/1/plan": "../../segment-1.onnx"}),
    row("absolute_plan", "/etc/passwd", {"/segments/1/plan": "/etc/passwd"}),
    row("older_engine_schema", "make it again with `rexit compile`", {"/schema": 2}, "UNSUPPORTED"),
    row("too_few_segments", "has 1 segments, the variant has 3", {"/segments/2": DELETE, "/segments/1": DELETE}),
    row("profile_that_descends", "tokens[2]: is 20, expected 24", {"/segments/0/profiles/1/tokens": [1, 24, 20]}),
    row("profile_with_two_numbers", "rows: has 2 numbers", {"/segments/0/profiles/0/rows": [1, 24]}),
    row("profile_from_zero", "prefix[0]: is 0, expected 1", {"/segments/0/profiles/0/prefix": [0, 24, 60]}),
    row("no_profiles", "profiles: has 0 profiles, expected 1 to 8", {"/segments/0/profiles": []}),
    refusing(
        "plan_that_does_not_load",
        "TensorRT 10.3.0 could not load the engine: made on another device",
        "deserialize",
        "made on another device",
    ),
    plan(
        "plan_that_is_none",
        "segment-1.plan: TensorRT 10.3.0 could not load the engine: magic tag does not match",
        {"/layers": DELETE},
        "BACKEND_FAILED",
    ),
    plan(
        "plan_of_another_precision",
        "segment-1.plan: output `state_out` is float32, expected float16",
        {"/outputs/state_out/type": "float32"},
    ),
    plan("plan_without_an_input", "segment-1.plan: the engine has no input `owner`", {"/inputs/owner": DELETE}),
    plan(
        "plan_of_another_shape",
        "output `label_logits` has shape [dynamic, 3], expected [dynamic, 2]",
        {"/outputs/label_logits/shape/1": 3},
    ),
    plan(
        "plan_with_one_input_too_many",
        "the engine has 11 inputs and outputs, the manifest names 10",
        {"/inputs/more": tensor("int64", -1)},
    ),
    plan(
        "plan_that_computes_shapes_from_an_input",
        "segment-1.plan: input `owner` is in host memory, expected GPU memory",
        {"/inputs/owner/host": True},
    ),
    # A compiler that has lost the static dimensions behind reshapes.
    plan(
        "plan_that_does_not_know_the_shapes_it_gives",
        "",
        {f"/outputs/{name}/unknown": True for name in ("label_logits", "state_out", "nk1")},
        "OK",
    ),
    plan(
        "plan_that_takes_any_shape",
        "input `state` has shape [dynamic, dynamic], expected [dynamic, 16]",
        {"/inputs/state/unknown": True},
    ),
    plan(
        "plan_whose_shortest_past_is_longer",
        "the minimum shape of input `pk1` in profile 1 is [2, 2, 8], engine.json says [2, 1, 8]",
        {"/profiles/1/prefix/0": 2},
    ),
    plan(
        "plan_of_another_size",
        "the maximum shape of input `ids` in profile 1 is [50], engine.json says [60]",
        {"/profiles/1/tokens/1": 50},
        segment=0,
    ),
    plan("plan_with_one_profile", "segment-1.plan: the engine has 1 profiles, engine.json has 2", {"/profiles/1": DELETE}),
    refusing(
        "plan_that_is_not_enqueued", "TensorRT could not run the engine: a tactic is missing", "enqueue", "a tactic is missing"
    ),
    refusing("plan_without_context", "TensorRT could not create an execution context: too many", "context", "too many"),
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


@case("CORRUPT", "is not a folder")
def file_in_place_of_the_engine_folder(folder: Path) -> None:
    shutil.rmtree(folder / ENGINES)
    (folder / ENGINES).write_text("")


@case("UNSUPPORTED", "variant.json: the graphs do not mask past_padding, which engines need; export again")
def graphs_that_do_not_mask_padding(folder: Path) -> None:
    change_json(folder, f"variants/{TENSORRT_HALF}/variant.json", {"/past_padding": DELETE})
    refresh(folder, TENSORRT_HALF)


CASES |= table(
    Case("missing_plan", "NOT_FOUND", PLAN, removed(f"{ENGINES}/{PLAN}")),
    Case("grown_plan", "CORRUPT", "truncated or edited", grown(f"{ENGINES}/{PLAN}")),
    Case("plan_that_is_a_link", "CORRUPT", "is a symbolic link", linked(f"{ENGINES}/{PLAN}")),
    Case("engine_folder_that_is_a_link", "CORRUPT", "is a symbolic link", linked(ENGINES)),
    Case("engines_folder_that_is_a_link", "CORRUPT", "is a symbolic link", linked(str(OTHERS))),
    Case("engine_folder_without_engine_json", "NOT_FOUND", "engine.json", removed(ENGINE)),
    no_engines,
    engines_of_other_machines,
    file_in_place_of_the_engine_folder,
    graphs_that_do_not_mask_padding,
)


def smaller(name: str, names: str, segment: int, profile: int, what: str, to: tuple[int, int, int]) -> Case:
    """Another profile, in the plan too."""

    def damage(folder: Path) -> None:
        change_plan(folder, f"{ENGINES}/segment-{segment}.plan", {f"/profiles/{profile}/{what}": to[::2]})
        change_json(folder, ENGINE, {f"/segments/{segment}/profiles/{profile}/{what}": to})

    return Case(name, "TOO_LONG", names, damage, "running")


CASES |= table(
    smaller("profile_too_short_for_the_prefix", " tokens, the engine was compiled for 1 to 10", 1, 0, "tokens", (1, 5, 10)),
    smaller("profile_with_too_few_rows", " rows, the engine was compiled for 1 to 1", 0, 1, "rows", (1, 1, 1)),
    smaller("profile_for_shorter_prefixes", " prefix tokens, the engine was compiled for 1 to 2", 0, 1, "prefix", (1, 2, 2)),
)

WITH_START = table(Row("sound_with_start", "OK", "", ENGINE))


def write_engines(place: Path) -> None:
    """A bundle with damaged engines for each case."""
    catalog = make_catalog()
    with_start = CatalogContents(
        {**catalog.info, "prompt": {**catalog.info["prompt"], "prefix": PREFIX_WITH_START}}, catalog.tables
    )
    for cases, contents in ((CASES, catalog), (WITH_START, with_start)):
        sound = write_bundle(place / ".sound", BundleOptions(contents, variants=(TENSORRT_HALF,)))
        add_engines(sound)
        write_cases(cases, sound, place)
        shutil.rmtree(sound)
