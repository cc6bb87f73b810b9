"""The served tiny bundle, in float32 and quantized, with policies under which every exit is taken, and what this machine's
runtime answers: the C++ tests on another architecture are held against it.

From the shell: `python tests/golden_bundle.py FOLDER` writes FOLDER/bundle and FOLDER/NAME.recorded.safetensors for each variant.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from safetensors.numpy import save_file

import tiny_bundle
from rexit import runtime
from rexit.bundle import Bundle
from served_bundle import write_served_bundle
from tiny_quantized import quantized

VARIANTS = ("cpu-fp32", "cpu-int8")


def add_quantized_variant(folder: Path) -> None:
    """variants/cpu-int8 beside cpu-fp32, with the same golden samples."""
    plain, part = folder / "variants" / "cpu-fp32", folder / "variants" / "cpu-int8"
    shutil.copytree(plain, part)
    for path in part.glob("*.onnx"):
        model = quantized(onnx.load(path))
        path.with_name(f"{path.name}.data").unlink()
        onnx.save(model, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=256)
    variant = json.loads((part / "variant.json").read_text())
    variant |= {"name": "cpu-int8", "precision": "int8"}
    variant["parity"]["tolerance"] = 1.5  # eight bits, log-odds up to 40
    tiny_bundle.write_json(part / "variant.json", variant)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["variants"].append("cpu-int8")
    manifest["files"]["variants/cpu-int8/variant.json"] = {}
    tiny_bundle.write_json(folder / "manifest.json", manifest)
    tiny_bundle.refresh(folder, "cpu-int8")


def threshold(log_odds: NDArray[np.float32]) -> float:
    """Far from every |log-odds|, with about half of them on either side: rounding must not decide where a candidate stops."""
    values = np.sort(np.abs(log_odds))
    middle = values[len(values) // 4 : -(len(values) // 4)]
    gap = int(np.diff(middle).argmax())
    return float((middle[gap] + middle[gap + 1]) / 2)


def write_golden_bundle(place: Path) -> None:
    folder, _ = write_served_bundle(place)
    add_quantized_variant(folder)
    for name in VARIANTS:
        bundle = Bundle.open(folder, name)
        requests = [
            (bundle.catalog.users.id(s.user), [bundle.catalog.items.id(int(row)) for row in s.items], s.as_of)
            for s in bundle.golden().slates
        ]
        with runtime.open(folder, name) as session:
            trace = np.concatenate([session.trace(user, items, as_of=as_of) for user, items, as_of in requests])
        limits = [threshold(column) for column in trace.T[:-1]]
        exits = [{"a": 1.0, "b": 0.0, "upper": limit, "lower": limit} for limit in limits]
        tiny_bundle.write_policy(folder, [*exits, {"a": 1.0, "b": 0.0, "upper": None, "lower": None}], variant=name)
        with runtime.open(folder, name) as session:
            scores = [session.score(user, items, as_of=as_of) for user, items, as_of in requests]
        recorded = {
            "log_odds": trace,
            "score_log_odds": np.concatenate([s.log_odds for s in scores]),
            "exit": np.concatenate([s.exit for s in scores]).astype(np.int32),
        }
        assert set(recorded["exit"]) == set(range(trace.shape[1])), "some exit is never taken"
        save_file(recorded, place / f"{name}.recorded.safetensors")


if __name__ == "__main__":
    write_golden_bundle(Path(sys.argv[1]))
