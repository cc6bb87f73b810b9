"""Engines for the tests' double of TensorRT, whose plans are text: what goes in and out of a segment, and what shall go wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from builders.bundles.model import HEAD_DIM, HEADS, HIDDEN, VOCABULARY
from builders.bundles.variants import TENSORRT, TENSORRT_HALF
from rexit.bundle import Bundle, Engine, EngineSegment, FileEntry, OptimizationProfile
from rexit.bundle.engine import Builder, Gpu
from rexit.bundle.typed import to_json

KEY = "sm87-trt10.3.0"
ENGINES = f"variants/{TENSORRT_HALF}/engines"

PROFILES = (
    OptimizationProfile(tokens=(1, 30, 60), prefix=(1, 1, 1), rows=(1, 1, 60)),
    OptimizationProfile(tokens=(1, 48, 60), prefix=(1, 30, 60), rows=(1, 20, 60)),
)


def engines_of(bundle: Path, variant: str = TENSORRT) -> Path:
    """The folder of a variant's engines."""
    return bundle / "variants" / variant / "engines"


def plan(segment: dict[str, Any]) -> str:
    """A plan as the test double reads it."""
    cache = (HEADS, -1, HEAD_DIM)
    ins, outs = segment["inputs"], segment["outputs"]
    lines = ["a plan for the double", f"layers {segment['layers'][0]} {segment['layers'][1]}", "working 4096"]

    def tensor(side: str, name: str, kind: str, *shape: int) -> None:
        lines.append(f"{side} {name} {kind} {' '.join(str(n) for n in shape)}")

    if "tokens" in ins:
        tensor("input", ins["tokens"], "int64", -1)
    else:
        tensor("input", ins["hidden"], segment["hidden_dtype"], -1, HIDDEN)
    for role in ("positions", "groups", "rows"):
        tensor("input", ins[role], "int64", -1)
    if "vectors" in ins:
        lines.append(f"vocabulary {VOCABULARY}")
        tensor("input", ins["vectors"], "float32", -1, HIDDEN)
    for name in (*ins["past_keys"], *ins["past_values"]):
        tensor("input", name, segment["cache_dtype"], *cache)
    if "hidden" in outs:
        tensor("output", outs["hidden"], segment["hidden_dtype"], -1, HIDDEN)
    tensor("output", outs["logits"], "float32", -1, 2)
    for name in (*outs["new_keys"], *outs["new_values"]):
        tensor("output", name, segment["cache_dtype"], *cache)
    return "\n".join([*lines, *(profile_line(profile) for profile in PROFILES)]) + "\n"


def profile_line(profile: OptimizationProfile) -> str:
    """Least and most of T, P and N."""
    return f"profile {' '.join(str(n) for t in (profile.tokens, profile.prefix, profile.rows) for n in t[::2])}"


def add_engines(folder: Path, key: str = KEY) -> Path:
    """Writes engines/KEY for the bundle's tensorrt variant, as `rexit compile` writes it. Returns the folder."""
    variant = Bundle.open(folder, TENSORRT_HALF).variant
    engines = folder / ENGINES / key
    engines.mkdir(parents=True)
    capability, version = key.removeprefix("sm").split("-trt")
    segments = []
    for k, segment in enumerate(variant.segments):
        (engines / f"segment-{k}.plan").write_text(plan(to_json(segment)))
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
