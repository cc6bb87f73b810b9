"""Engines for the tests' double of TensorRT, whose plans are JSON: what goes in and out of a segment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from builders.bundles.bundle_files import write_json
from builders.bundles.model import HEAD_DIM, HEADS, HIDDEN, VOCABULARY
from builders.bundles.variants import TENSORRT, TENSORRT_HALF
from rexit.format.bundle import Bundle, Engine, EngineSegment, FileEntry, OptimizationProfile
from rexit.format.bundle.files import to_json
from rexit.format.bundle.variant import Builder, Gpu

KEY = "sm87-trt10.3.0"
ENGINES = f"variants/{TENSORRT_HALF}/engines"

PROFILES = (
    OptimizationProfile(tokens=(1, 30, 60), prefix=(1, 1, 1), rows=(1, 1, 60)),
    OptimizationProfile(tokens=(1, 48, 60), prefix=(1, 30, 60), rows=(1, 20, 60)),
)


def engines_of(bundle: Path) -> Path:
    """The folder of the float32 variant's engines."""
    return bundle / "variants" / TENSORRT / "engines"


def plan(segment: dict[str, Any]) -> dict[str, Any]:
    """A plan as the test double reads it: inputs and outputs are in the order of docs/format.md."""
    ins, outs = segment["inputs"], segment["outputs"]
    index, cache = tensor("int64", -1), tensor(segment["cache_dtype"], HEADS, -1, HEAD_DIM)
    hidden = tensor(segment["hidden_dtype"], -1, HIDDEN)
    inputs = {ins["tokens"]: index} if "tokens" in ins else {ins["hidden"]: hidden}
    inputs |= {ins[role]: index for role in ("positions", "groups", "rows")}
    if "vectors" in ins:
        inputs[ins["vectors"]] = tensor("float32", -1, HIDDEN)
    inputs |= dict.fromkeys((*ins["past_keys"], *ins["past_values"]), cache)
    outputs = {outs["hidden"]: hidden} if "hidden" in outs else {}
    outputs[outs["logits"]] = tensor("float32", -1, 2)
    outputs |= dict.fromkeys((*outs["new_keys"], *outs["new_values"]), cache)
    profiles = [{"tokens": p.tokens[::2], "prefix": p.prefix[::2], "rows": p.rows[::2]} for p in PROFILES]
    vocabulary = VOCABULARY if "vectors" in ins else 0
    values = {"layers": segment["layers"], "working": 4096, "vocabulary": vocabulary}
    return {**values, "inputs": inputs, "outputs": outputs, "profiles": profiles}


def tensor(dtype: str, *shape: int) -> dict[str, Any]:
    return {"type": dtype, "shape": shape}


def add_engines(folder: Path, key: str = KEY) -> Path:
    """Writes engines/KEY for the bundle's tensorrt variant, as `rexit compile` writes it. Returns the folder."""
    variant = Bundle.open(folder, TENSORRT_HALF).variant
    engines = folder / ENGINES / key
    engines.mkdir(parents=True)
    capability, version = key.removeprefix("sm").split("-trt")
    segments = []
    for k, segment in enumerate(variant.segments):
        write_json(engines / f"segment-{k}.plan", plan(to_json(segment)))
        segments.append(
            EngineSegment(
                plan=f"segment-{k}.plan",
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
    Engine(TENSORRT_HALF, Builder("tensorrt", version), Gpu("Orin", capability), tuple(segments), files).write(engines)
    return engines
