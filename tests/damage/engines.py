"""Damage to a variant's engines, made for tests/cpp/backends/tensorrt_double."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from safetensors.numpy import load_file, save_file

from builders.bundles.bundle import BundleOptions, write_bundle
from builders.bundles.bundle_files import entry, refresh, write_json
from builders.bundles.catalog import make_catalog
from builders.bundles.engines import ENGINES, KEY, PROFILES, add_engines, profile_line
from builders.bundles.model import HIDDEN
from builders.bundles.variants import TENSORRT_HALF
from damage.cases import Cases, write_cases

CASES = Cases("reading")
"""Found when engine.json is read, unless said: `loading` plans, or `running` a slate."""
ends_in = CASES.ends_in


def edit(folder: Path, *keys: str | int, to: Any) -> None:
    """Replaces a value of engine.json."""
    path = folder / ENGINES / KEY / "engine.json"
    value = json.loads(path.read_text())
    at = value
    for key in keys[:-1]:
        at = at[key]
    at[keys[-1]] = to
    write_json(path, value)


def edit_plan(folder: Path, old: str, new: str, segment: int = 1) -> None:
    """Replaces text of a plan and records its size anew."""
    path = folder / ENGINES / KEY / f"segment-{segment}.plan"
    text = path.read_text()
    assert old in text, old
    path.write_text(text.replace(old, new))
    edit(folder, "files", path.name, to=entry(path))


@ends_in("OK", "")
def sound(folder: Path) -> None:
    pass


@ends_in("NOT_FOUND", "it has none; run `rexit compile")
def no_engines(folder: Path) -> None:
    shutil.rmtree(folder / ENGINES)


@ends_in("NOT_FOUND", "it has sm86-rtx1.2.0, sm86-trt10.3.0, sm87-trt10.2.0; run `rexit compile")
def engines_of_other_machines(folder: Path) -> None:
    shutil.rmtree(folder / ENGINES / KEY)
    for key in ("sm86-trt10.3.0", "sm87-trt10.2.0"):
        add_engines(folder, key)
    (folder / ENGINES / "sm86-rtx1.2.0").mkdir()
    (folder / ENGINES / ".sm87-trt10.3.0.tmp-1").mkdir()
    (folder / ENGINES / "sm\nrm -rf").mkdir()
    (folder / ENGINES / "sm87-trt10.3.0.timing").write_text("")


@ends_in("MISMATCH", "segments[1] graph_sha256: is ")
def stale_graph(folder: Path) -> None:
    edit(folder, "segments", 1, "graph_sha256", to="0" * 64)


@ends_in("MISMATCH", "weights_sha256: is 000000000000…, the engine is stale: variant.json has")
def stale_weights(folder: Path) -> None:
    edit(folder, "segments", 2, "weights_sha256", to="0" * 64)


@ends_in("MISMATCH", "variant: is another")
def engine_of_another_variant(folder: Path) -> None:
    edit(folder, "variant", to="another")


@ends_in("MISMATCH", "compute_capability: is 8.9, this GPU's is 8.7")
def engine_of_another_gpu_under_this_name(folder: Path) -> None:
    edit(folder, "gpu", "compute_capability", to="8.9")


@ends_in("MISMATCH", "version: is 10.4.0, this TensorRT is 10.3.0")
def engine_of_another_tensorrt_under_this_name(folder: Path) -> None:
    edit(folder, "builder", "version", to="10.4.0")


@ends_in("MISMATCH", "name: is tensorrt_rtx")
def engine_of_another_compiler_under_this_name(folder: Path) -> None:
    edit(folder, "builder", "name", to="tensorrt_rtx")


@ends_in("NOT_FOUND", "segment-1.plan")
def missing_plan(folder: Path) -> None:
    (folder / ENGINES / KEY / "segment-1.plan").unlink()


@ends_in("CORRUPT", "truncated or edited")
def grown_plan(folder: Path) -> None:
    with open(folder / ENGINES / KEY / "segment-1.plan", "ab") as file:
        file.write(b"\n")


@ends_in("CORRUPT", "does not list `other.plan`")
def plan_that_is_not_listed(folder: Path) -> None:
    edit(folder, "segments", 1, "plan", to="other.plan")


@ends_in("CORRUPT", "../../segment-1.onnx")
def plan_that_leaves_the_folder(folder: Path) -> None:
    edit(folder, "segments", 1, "plan", to="../../segment-1.onnx")


@ends_in("CORRUPT", "/etc/passwd")
def absolute_context(folder: Path) -> None:
    edit(folder, "segments", 1, "context", to="/etc/passwd")


@ends_in("CORRUPT", "is a symbolic link")
def plan_that_is_a_link(folder: Path) -> None:
    path = folder / ENGINES / KEY / "segment-1.plan"
    path.rename(folder / "elsewhere")
    path.symlink_to(folder / "elsewhere")


@ends_in("CORRUPT", "is a symbolic link")
def engine_folder_that_is_a_link(folder: Path) -> None:
    (folder / ENGINES / KEY).rename(folder / "elsewhere")
    (folder / ENGINES / KEY).symlink_to(folder / "elsewhere", target_is_directory=True)


@ends_in("CORRUPT", "is a symbolic link")
def engines_folder_that_is_a_link(folder: Path) -> None:
    (folder / ENGINES).rename(folder / "elsewhere")
    (folder / ENGINES).symlink_to(folder / "elsewhere", target_is_directory=True)


@ends_in("CORRUPT", "is not a folder")
def file_in_place_of_the_engine_folder(folder: Path) -> None:
    shutil.rmtree(folder / ENGINES / KEY)
    (folder / ENGINES / KEY).write_text("")


@ends_in("NOT_FOUND", "engine.json")
def engine_folder_without_engine_json(folder: Path) -> None:
    (folder / ENGINES / KEY / "engine.json").unlink()


@ends_in("CORRUPT", "not valid JSON")
def half_an_engine_json(folder: Path) -> None:
    path = folder / ENGINES / KEY / "engine.json"
    path.write_text(path.read_text()[:200])


@ends_in("CORRUPT", "deep")
def deeply_nested_engine_json(folder: Path) -> None:
    (folder / ENGINES / KEY / "engine.json").write_text('{"schema": 1, "x": ' + "[" * 100_000)


@ends_in("UNSUPPORTED", "schema 2")
def newer_engine_schema(folder: Path) -> None:
    edit(folder, "schema", to=2)


@ends_in("UNSUPPORTED", "time-travel")
def unknown_requirement_of_the_engine(folder: Path) -> None:
    edit(folder, "requires", to=["time-travel"])


@ends_in("CORRUPT", "has 1 segments, the variant has 3")
def too_few_segments(folder: Path) -> None:
    path = folder / ENGINES / KEY / "engine.json"
    edit(folder, "segments", to=json.loads(path.read_text())["segments"][:1])


@ends_in("CORRUPT", "tokens[2]: is 20, expected 24")
def profile_that_descends(folder: Path) -> None:
    edit(folder, "segments", 0, "profiles", 1, "tokens", to=[1, 24, 20])


@ends_in("CORRUPT", "rows: has 2 numbers")
def profile_with_two_numbers(folder: Path) -> None:
    edit(folder, "segments", 0, "profiles", 0, "rows", to=[1, 24])


@ends_in("CORRUPT", "prefix[0]: is 0, expected 1")
def profile_from_zero(folder: Path) -> None:
    edit(folder, "segments", 0, "profiles", 0, "prefix", to=[0, 24, 60])


@ends_in("CORRUPT", "profiles: has 0 profiles, expected 1 to 8")
def no_profiles(folder: Path) -> None:
    edit(folder, "segments", 0, "profiles", to=[])


@ends_in("BACKEND_FAILED", "segment-1.plan: TensorRT 10.3.0 could not load the engine: magic tag does not match", "loading")
def plan_that_is_none(folder: Path) -> None:
    edit_plan(folder, "a plan for", "no plan for")


@ends_in("BACKEND_FAILED", "segment-1.plan: TensorRT 10.3.0 could not load the engine: made on another device", "loading")
def plan_that_does_not_load(folder: Path) -> None:
    edit_plan(folder, "working", "refuse deserialize made on another device\nworking")


@ends_in("CORRUPT", "segment-1.plan: output `state_out` is float32, expected float16", "loading")
def plan_of_another_precision(folder: Path) -> None:
    edit_plan(folder, "output state_out float16", "output state_out float32")


@ends_in("CORRUPT", "segment-1.plan: the engine has no input `owner`", "loading")
def plan_with_other_names(folder: Path) -> None:
    edit_plan(folder, "input owner", "input groups")


@ends_in("CORRUPT", "output `label_logits` has shape [dynamic, 3], expected [dynamic, 2]", "loading")
def plan_of_another_shape(folder: Path) -> None:
    edit_plan(folder, "float32 -1 2", "float32 -1 3")


@ends_in("CORRUPT", "the engine has 11 inputs and outputs, the manifest names 10", "loading")
def plan_with_one_input_too_many(folder: Path) -> None:
    edit_plan(folder, "output label", "input more int64 -1\noutput label")


@ends_in("CORRUPT", "segment-1.plan: input `owner` is in host memory, expected GPU memory", "loading")
def plan_that_computes_shapes_from_an_input(folder: Path) -> None:
    edit_plan(folder, "profile 1 60 1 1", "host owner\nprofile 1 60 1 1")


@ends_in("OK", "", "running")
def plan_that_does_not_know_the_shapes_it_gives(folder: Path) -> None:
    """A compiler that has lost the static dimensions behind reshapes."""
    edit_plan(folder, "profile 1 60 1 1", "unknown label_logits\nunknown state_out\nunknown nk1\nprofile 1 60 1 1")


@ends_in("CORRUPT", "input `state` has shape [dynamic, dynamic], expected [dynamic, 16]", "loading")
def plan_that_takes_any_shape(folder: Path) -> None:
    edit_plan(folder, "profile 1 60 1 1", "unknown state\nprofile 1 60 1 1")


@ends_in("CORRUPT", "the minimum shape of input `pk1` in profile 1 is [2, 2, 8], engine.json says [2, 1, 8]", "loading")
def plan_whose_shortest_past_is_longer(folder: Path) -> None:
    edit_plan(folder, "profile 1 60 1 60", "profile 1 60 2 60")


@ends_in("UNSUPPORTED", "variant.json: the graphs do not mask past_padding, which engines need; export again")
def graphs_that_do_not_mask_padding(folder: Path) -> None:
    path = folder / f"variants/{TENSORRT_HALF}/variant.json"
    write_json(path, {name: value for name, value in json.loads(path.read_text()).items() if name != "past_padding"})
    refresh(folder, TENSORRT_HALF)


@ends_in("CORRUPT", "the maximum shape of input `ids` in profile 1 is [50], engine.json says [60]", "loading")
def plan_of_another_size(folder: Path) -> None:
    edit_plan(folder, "profile 1 60 1 60", "profile 1 50 1 60", segment=0)


@ends_in("CORRUPT", "segment-1.plan: the engine has 1 profiles, engine.json has 2", "loading")
def plan_with_one_profile(folder: Path) -> None:
    edit_plan(folder, "profile 1 60 1 60 1 60\n", "")


@ends_in("BACKEND_FAILED", "segment-1.plan: TensorRT could not run the engine: a tactic is missing", "running")
def plan_that_is_not_enqueued(folder: Path) -> None:
    edit_plan(folder, "working", "refuse enqueue a tactic is missing\nworking")


@ends_in("BACKEND_FAILED", "segment-1.plan: TensorRT could not create an execution context: too many", "loading")
def plan_without_context(folder: Path) -> None:
    edit_plan(folder, "working", "refuse context too many\nworking")


@ends_in("BACKEND_FAILED", "segment-1.plan: CUDA: unspecified launch failure", "running")
def plan_that_fails_on_the_gpu(folder: Path) -> None:
    edit_plan(folder, "working", "refuse run\nworking")


def shrink(folder: Path, segment: int, profile: int, name: str, to: list[int]) -> None:
    """Another profile, in the plan too."""
    old = PROFILES[profile]
    new = msgspec.structs.replace(old, **{name: (to[0], to[1], to[2])})
    edit_plan(folder, profile_line(old), profile_line(new), segment)
    edit(folder, "segments", segment, "profiles", profile, name, to=to)


@ends_in("TOO_LONG", " tokens, the engine was compiled for 1 to 10", "running")
def profile_too_short_for_the_prefix(folder: Path) -> None:
    shrink(folder, 1, 0, "tokens", [1, 5, 10])


@ends_in("TOO_LONG", " rows, the engine was compiled for 1 to 1", "running")
def profile_with_too_few_rows(folder: Path) -> None:
    shrink(folder, 0, 1, "rows", [1, 1, 1])


@ends_in("TOO_LONG", " prefix tokens, the engine was compiled for 1 to 2", "running")
def profile_for_shorter_prefixes(folder: Path) -> None:
    shrink(folder, 0, 1, "prefix", [1, 2, 2])


WITH_VECTORS = Cases("loading")
"""Damage to the engines of a bundle whose prompts have vectors."""


@WITH_VECTORS.ends_in("OK", "", "running")
def sound_with_vectors(folder: Path) -> None:
    pass


@WITH_VECTORS.ends_in("CORRUPT", "segment-0.plan: the engine has no input `given`")
def plan_that_takes_no_vectors(folder: Path) -> None:
    edit_plan(folder, f"vocabulary 64\ninput given float32 -1 {HIDDEN}\n", "", segment=0)


@WITH_VECTORS.ends_in("CORRUPT", "segment-0.plan: input `given` is float16, expected float32")
def plan_that_takes_halves_for_vectors(folder: Path) -> None:
    edit_plan(folder, "input given float32", "input given float16", segment=0)


@WITH_VECTORS.ends_in("CORRUPT", "segment-0.plan: input `given` has shape [dynamic, 17], expected [dynamic, 16]")
def plan_that_takes_wider_vectors(folder: Path) -> None:
    edit_plan(folder, f"input given float32 -1 {HIDDEN}", f"input given float32 -1 {HIDDEN + 1}", segment=0)


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
    write_bundle(plain, BundleOptions(make_catalog(vectors=True), variants=(TENSORRT_HALF,)))
    write_numbers(plain)
    add_engines(plain)
    write_cases(WITH_VECTORS, plain, place)
    shutil.rmtree(plain)
