"""The tiny bundle with a variant for TensorRT, `tensorrt-fp16`: half-precision hidden states and caches, computed in float32.

`add_tensorrt_variant(folder)` writes its ONNX graphs; `add_engines(folder)` adds engines for tests/cpp/tensorrt_double, whose
plans are text: what goes in and out of a segment, and what shall go wrong. `DAMAGES` are things to do to these engines, one
function each, with the status that opening must end in and what its message must name.

From the shell: `python tests/engine_bundles.py FOLDER` writes FOLDER/NAME/{bundle,expected} for each damage, and for none.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

import tiny_bundle
from rexit.bundle import Bundle, Engine, EngineSegment, FileEntry, OptimizationProfile

VARIANT, KEY = "tensorrt-fp16", "sm87-trt10.3.0"
ENGINES = f"variants/{VARIANT}/engines"


def halved(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with every float32 input and output in float16, `logits` excepted."""
    graph = model.graph
    inputs = [v for v in graph.input if v.type.tensor_type.elem_type == TensorProto.FLOAT]
    outputs = [v for v in graph.output if v.type.tensor_type.elem_type == TensorProto.FLOAT and "logits" not in v.name]
    inner = {v.name: f"{v.name}_f32" for v in (*inputs, *outputs)}
    for node in graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = inner.get(name, name)
    for n, value in enumerate(inputs):
        graph.node.insert(n, helper.make_node("Cast", [value.name], [inner[value.name]], to=TensorProto.FLOAT))
    for value in outputs:
        graph.node.append(helper.make_node("Cast", [inner[value.name]], [value.name], to=TensorProto.FLOAT16))
    for value in (*inputs, *outputs):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    return model


def add_tensorrt_variant(folder: Path) -> Path:
    """variants/tensorrt-fp16 beside cpu-fp32, with its golden samples if there are any, without engines. Returns `folder`."""
    part = folder / "variants" / VARIANT
    shutil.copytree(folder / "variants" / "cpu-fp32", part)
    for path in part.glob("*.onnx"):
        model = halved(onnx.load(path))
        path.with_name(f"{path.name}.data").unlink()
        onnx.save(model, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=256)
    variant = json.loads((part / "variant.json").read_text())
    variant |= {"name": VARIANT, "target": "tensorrt", "precision": "fp16", "backend": "tensorrt"}
    variant["limits"]["max_tokens"] = 48  # several candidates a pass, and more than one pass for all items
    for segment in variant["segments"]:
        segment |= {"hidden_dtype": "float16", "cache_dtype": "float16"}
    variant["parity"]["tolerance"] = 1.0  # half precision between segments, log-odds up to 40
    tiny_bundle.write_json(part / "variant.json", variant)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["variants"].append(VARIANT)
    manifest["files"][f"variants/{VARIANT}/variant.json"] = {}
    tiny_bundle.write_json(folder / "manifest.json", manifest)
    tiny_bundle.refresh(folder, VARIANT)
    return folder


PROFILES = (
    OptimizationProfile(tokens=(1, 30, 60), prefix=(0, 0, 0), rows=(1, 1, 60)),
    OptimizationProfile(tokens=(1, 48, 60), prefix=(1, 30, 60), rows=(1, 20, 60)),
)


def plan(segment: dict[str, Any]) -> str:
    """A plan as the test double reads it."""
    cache = (tiny_bundle.HEADS, -1, tiny_bundle.HEAD_DIM)
    ins, outs = segment["inputs"], segment["outputs"]
    lines = ["a plan for tests/cpp/tensorrt_double", f"layers {segment['layers'][0]} {segment['layers'][1]}", "working 4096"]

    def tensor(side: str, name: str, kind: str, *shape: int) -> None:
        lines.append(f"{side} {name} {kind} {' '.join(str(n) for n in shape)}")

    if "tokens" in ins:
        tensor("input", ins["tokens"], "int64", -1)
    else:
        tensor("input", ins["hidden"], segment["hidden_dtype"], -1, tiny_bundle.HIDDEN)
    for role in ("positions", "groups", "rows"):
        tensor("input", ins[role], "int64", -1)
    for name in (*ins["past_keys"], *ins["past_values"]):
        tensor("input", name, segment["cache_dtype"], *cache)
    if "hidden" in outs:
        tensor("output", outs["hidden"], segment["hidden_dtype"], -1, tiny_bundle.HIDDEN)
    tensor("output", outs["logits"], "float32", -1, 2)
    for name in (*outs["new_keys"], *outs["new_values"]):
        tensor("output", name, segment["cache_dtype"], *cache)
    return "\n".join([*lines, *(profile_line(profile) for profile in PROFILES)]) + "\n"


def profile_line(profile: OptimizationProfile) -> str:
    """Least and most of T, P and N."""
    return f"profile {' '.join(str(n) for t in (profile.tokens, profile.prefix, profile.rows) for n in t[::2])}"


def add_engines(folder: Path, key: str = KEY) -> Path:
    """Writes engines/KEY for the bundle's tensorrt variant, as `rexit compile` writes it. Returns the folder."""
    variant = Bundle.open(folder, VARIANT).variant
    engines = folder / ENGINES / key
    engines.mkdir(parents=True)
    capability, version = key.removeprefix("sm").split("-trt")
    segments = []
    for k, segment in enumerate(variant.segments):
        (engines / f"segment-{k}.plan").write_text(plan(segment.to_json()))
        segments.append(
            EngineSegment(
                plan=f"segment-{k}.plan",
                context=None,
                graph_sha256=variant.files[segment.graph].sha256,
                weights_sha256=variant.files[segment.weights].sha256,
                profiles=PROFILES,
                seconds=1.5,
                layers=61,
                summary={"gemm_mha_v2": 2},
            )
        )
    files = {path.name: FileEntry.of(path) for path in engines.iterdir()}
    capability = f"{capability[:-1]}.{capability[-1]}"
    Engine(VARIANT, "tensorrt", version, "Orin", capability, tuple(segments), files).write(engines)
    return engines


Damage = Callable[[Path], None]
DAMAGES: dict[str, tuple[Damage, str, str, str]] = {}
"""Name to: what is done to the bundle, status, what the message names, and when: `reading` engine.json,
`loading` plans or `running` a slate."""


def damage(status: str, names: str, found: str = "reading") -> Callable[[Damage], Damage]:
    def register(function: Damage) -> Damage:
        DAMAGES[function.__name__] = (function, f"REXIT_{status}", names, found)
        return function

    return register


def edit(folder: Path, *keys: str | int, to: Any) -> None:
    """Replaces a value of engine.json."""
    path = folder / ENGINES / KEY / "engine.json"
    value = json.loads(path.read_text())
    at = value
    for key in keys[:-1]:
        at = at[key]
    at[keys[-1]] = to
    tiny_bundle.write_json(path, value)


def edit_plan(folder: Path, old: str, new: str, segment: int = 1) -> None:
    """Replaces text of a plan and records its size anew."""
    path = folder / ENGINES / KEY / f"segment-{segment}.plan"
    text = path.read_text()
    assert old in text, old
    path.write_text(text.replace(old, new))
    edit(folder, "files", path.name, to=tiny_bundle.entry(path))


@damage("OK", "")
def sound(folder: Path) -> None:
    pass


@damage("NOT_FOUND", "it has none; run `rexit compile")
def no_engines(folder: Path) -> None:
    shutil.rmtree(folder / ENGINES)


@damage("NOT_FOUND", "it has sm86-rtx1.2.0, sm86-trt10.3.0, sm87-trt10.2.0; run `rexit compile")
def engines_of_other_machines(folder: Path) -> None:
    shutil.rmtree(folder / ENGINES / KEY)
    for key in ("sm86-trt10.3.0", "sm87-trt10.2.0"):
        add_engines(folder, key)
    (folder / ENGINES / "sm86-rtx1.2.0").mkdir()
    (folder / ENGINES / ".sm87-trt10.3.0.tmp-1").mkdir()
    (folder / ENGINES / "sm\nrm -rf").mkdir()
    (folder / ENGINES / "sm87-trt10.3.0.timing").write_text("")


@damage("MISMATCH", "segments[1] graph_sha256: is ")
def stale_graph(folder: Path) -> None:
    edit(folder, "segments", 1, "graph_sha256", to="0" * 64)


@damage("MISMATCH", "weights_sha256: is 000000000000…, the engine is stale: variant.json has")
def stale_weights(folder: Path) -> None:
    edit(folder, "segments", 2, "weights_sha256", to="0" * 64)


@damage("MISMATCH", "variant: is another")
def engine_of_another_variant(folder: Path) -> None:
    edit(folder, "variant", to="another")


@damage("MISMATCH", "compute_capability: is 8.9, this GPU's is 8.7")
def engine_of_another_gpu_under_this_name(folder: Path) -> None:
    edit(folder, "gpu", "compute_capability", to="8.9")


@damage("MISMATCH", "version: is 10.4.0, this TensorRT is 10.3.0")
def engine_of_another_tensorrt_under_this_name(folder: Path) -> None:
    edit(folder, "builder", "version", to="10.4.0")


@damage("MISMATCH", "name: is tensorrt_rtx")
def engine_of_another_compiler_under_this_name(folder: Path) -> None:
    edit(folder, "builder", "name", to="tensorrt_rtx")


@damage("NOT_FOUND", "segment-1.plan")
def missing_plan(folder: Path) -> None:
    (folder / ENGINES / KEY / "segment-1.plan").unlink()


@damage("CORRUPT", "truncated or edited")
def grown_plan(folder: Path) -> None:
    with open(folder / ENGINES / KEY / "segment-1.plan", "ab") as file:
        file.write(b"\n")


@damage("CORRUPT", "does not list `other.plan`")
def plan_that_is_not_listed(folder: Path) -> None:
    edit(folder, "segments", 1, "plan", to="other.plan")


@damage("CORRUPT", "../../segment-1.onnx")
def plan_that_leaves_the_folder(folder: Path) -> None:
    edit(folder, "segments", 1, "plan", to="../../segment-1.onnx")


@damage("CORRUPT", "/etc/passwd")
def absolute_context(folder: Path) -> None:
    edit(folder, "segments", 1, "context", to="/etc/passwd")


@damage("CORRUPT", "is a symbolic link")
def plan_that_is_a_link(folder: Path) -> None:
    path = folder / ENGINES / KEY / "segment-1.plan"
    path.rename(folder / "elsewhere")
    path.symlink_to(folder / "elsewhere")


@damage("CORRUPT", "is a symbolic link")
def engine_folder_that_is_a_link(folder: Path) -> None:
    (folder / ENGINES / KEY).rename(folder / "elsewhere")
    (folder / ENGINES / KEY).symlink_to(folder / "elsewhere", target_is_directory=True)


@damage("CORRUPT", "is a symbolic link")
def engines_folder_that_is_a_link(folder: Path) -> None:
    (folder / ENGINES).rename(folder / "elsewhere")
    (folder / ENGINES).symlink_to(folder / "elsewhere", target_is_directory=True)


@damage("CORRUPT", "is not a folder")
def file_in_place_of_the_engine_folder(folder: Path) -> None:
    shutil.rmtree(folder / ENGINES / KEY)
    (folder / ENGINES / KEY).write_text("")


@damage("NOT_FOUND", "engine.json")
def engine_folder_without_engine_json(folder: Path) -> None:
    (folder / ENGINES / KEY / "engine.json").unlink()


@damage("CORRUPT", "not valid JSON")
def half_an_engine_json(folder: Path) -> None:
    path = folder / ENGINES / KEY / "engine.json"
    path.write_text(path.read_text()[:200])


@damage("CORRUPT", "deep")
def deeply_nested_engine_json(folder: Path) -> None:
    (folder / ENGINES / KEY / "engine.json").write_text('{"schema": 1, "x": ' + "[" * 100_000)


@damage("UNSUPPORTED", "schema 2")
def newer_engine_schema(folder: Path) -> None:
    edit(folder, "schema", to=2)


@damage("UNSUPPORTED", "time-travel")
def unknown_requirement_of_the_engine(folder: Path) -> None:
    edit(folder, "requires", to=["time-travel"])


@damage("CORRUPT", "has 1 segments, the variant has 3")
def too_few_segments(folder: Path) -> None:
    path = folder / ENGINES / KEY / "engine.json"
    edit(folder, "segments", to=json.loads(path.read_text())["segments"][:1])


@damage("CORRUPT", "tokens[2]: is 20, expected 24")
def profile_that_descends(folder: Path) -> None:
    edit(folder, "segments", 0, "profiles", 1, "tokens", to=[1, 24, 20])


@damage("CORRUPT", "rows: has 2 numbers")
def profile_with_two_numbers(folder: Path) -> None:
    edit(folder, "segments", 0, "profiles", 0, "rows", to=[1, 24])


@damage("CORRUPT", "prefix[0]: is -1")
def profile_below_zero(folder: Path) -> None:
    edit(folder, "segments", 0, "profiles", 0, "prefix", to=[-1, 24, 60])


@damage("CORRUPT", "profiles: has 0 profiles, expected 1 to 8")
def no_profiles(folder: Path) -> None:
    edit(folder, "segments", 0, "profiles", to=[])


@damage("BACKEND_FAILED", "segment-1.plan: TensorRT 10.3.0 could not load the engine: magic tag does not match", "loading")
def plan_that_is_none(folder: Path) -> None:
    edit_plan(folder, "a plan for", "no plan for")


@damage("BACKEND_FAILED", "segment-1.plan: TensorRT 10.3.0 could not load the engine: made on another device", "loading")
def plan_that_does_not_load(folder: Path) -> None:
    edit_plan(folder, "working", "refuse deserialize made on another device\nworking")


@damage("CORRUPT", "segment-1.plan: output `state_out` is float32, expected float16", "loading")
def plan_of_another_precision(folder: Path) -> None:
    edit_plan(folder, "output state_out float16", "output state_out float32")


@damage("CORRUPT", "segment-1.plan: the engine has no input `owner`", "loading")
def plan_with_other_names(folder: Path) -> None:
    edit_plan(folder, "input owner", "input groups")


@damage("CORRUPT", "output `label_logits` has shape [dynamic, 3], expected [dynamic, 2]", "loading")
def plan_of_another_shape(folder: Path) -> None:
    edit_plan(folder, "float32 -1 2", "float32 -1 3")


@damage("CORRUPT", "the engine has 11 inputs and outputs, the manifest names 10", "loading")
def plan_with_one_input_too_many(folder: Path) -> None:
    edit_plan(folder, "output label", "input more int64 -1\noutput label")


@damage("CORRUPT", "segment-1.plan: input `owner` is in host memory, expected GPU memory", "loading")
def plan_that_computes_shapes_from_an_input(folder: Path) -> None:
    edit_plan(folder, "profile 1 60 0 0", "host owner\nprofile 1 60 0 0")


@damage("OK", "", "running")
def plan_that_does_not_know_the_shapes_it_gives(folder: Path) -> None:
    """A compiler that has lost the static dimensions behind reshapes."""
    edit_plan(folder, "profile 1 60 0 0", "unknown label_logits\nunknown state_out\nunknown nk1\nprofile 1 60 0 0")


@damage("CORRUPT", "input `state` has shape [dynamic, dynamic], expected [dynamic, 16]", "loading")
def plan_that_takes_any_shape(folder: Path) -> None:
    edit_plan(folder, "profile 1 60 0 0", "unknown state\nprofile 1 60 0 0")


@damage("CORRUPT", "the minimum shape of input `pk1` in profile 0 is [2, 1, 8], engine.json says [2, 0, 8]", "loading")
def plan_whose_empty_prefix_was_raised_to_one(folder: Path) -> None:
    """What a compiler may do with a least of 0."""
    edit_plan(folder, "profile 1 60 0 0 1 60", "profile 1 60 1 1 1 60")


@damage("CORRUPT", "the maximum shape of input `ids` in profile 1 is [50], engine.json says [60]", "loading")
def plan_of_another_size(folder: Path) -> None:
    edit_plan(folder, "profile 1 60 1 60", "profile 1 50 1 60", segment=0)


@damage("CORRUPT", "segment-1.plan: the engine has 1 profiles, engine.json has 2", "loading")
def plan_with_one_profile(folder: Path) -> None:
    edit_plan(folder, "profile 1 60 1 60 1 60\n", "")


@damage("BACKEND_FAILED", "segment-1.plan: TensorRT could not run the engine: a tactic is missing", "running")
def plan_that_is_not_enqueued(folder: Path) -> None:
    edit_plan(folder, "working", "refuse enqueue a tactic is missing\nworking")


@damage("BACKEND_FAILED", "segment-1.plan: TensorRT could not create an execution context: too many", "loading")
def plan_without_context(folder: Path) -> None:
    edit_plan(folder, "working", "refuse context too many\nworking")


@damage("BACKEND_FAILED", "segment-1.plan: CUDA: unspecified launch failure", "running")
def plan_that_fails_on_the_gpu(folder: Path) -> None:
    edit_plan(folder, "working", "refuse run\nworking")


def shrink(folder: Path, segment: int, profile: int, name: str, to: list[int]) -> None:
    """Another profile, in the plan too."""
    old = PROFILES[profile]
    new = dataclasses.replace(old, **{name: tuple(to)})
    edit_plan(folder, profile_line(old), profile_line(new), segment)
    edit(folder, "segments", segment, "profiles", profile, name, to=to)


@damage("TOO_LONG", " tokens, the engine was compiled for 1 to 10", "running")
def profile_too_short_for_the_prefix(folder: Path) -> None:
    shrink(folder, 1, 0, "tokens", [1, 5, 10])


@damage("TOO_LONG", " rows, the engine was compiled for 1 to 1", "running")
def profile_with_too_few_rows(folder: Path) -> None:
    shrink(folder, 0, 1, "rows", [1, 1, 1])


@damage("TOO_LONG", " prefix tokens, the engine was compiled for 1 to 2", "running")
def profile_for_shorter_prefixes(folder: Path) -> None:
    shrink(folder, 0, 1, "prefix", [1, 2, 2])


def write_damaged_bundles(place: Path) -> None:
    plain = add_tensorrt_variant(tiny_bundle.write_bundle(place / ".plain"))
    add_engines(plain)
    for name, (function, status, text, found) in DAMAGES.items():
        folder = place / name / "bundle"
        shutil.copytree(plain, folder)
        function(folder)
        (place / name / "expected").write_text(f"{status}\n{text}\n{found}\n")
    shutil.rmtree(place / ".plain")


if __name__ == "__main__":
    write_damaged_bundles(Path(sys.argv[1]))
