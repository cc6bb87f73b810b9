"""Graphs, their weights, and what variant.json says of them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import onnx

from builders.bundles.bundle_files import refresh
from damage.cases import Cases
from damage.edits import MANIFEST, SEGMENT, VARIANT, edit_graph, edit_json

CASES = Cases("opening")
ends_in = CASES.ends_in


@ends_in("BACKEND_FAILED", "segment-1.onnx")
def graph_that_is_noise(folder: Path) -> None:
    (folder / SEGMENT).write_bytes(bytes(range(256)) * 8)
    refresh(folder)


@ends_in("BACKEND_FAILED", "segment-1.onnx")
def weights_cut_off(folder: Path) -> None:
    os.truncate(folder / f"{SEGMENT}.data", 16)
    refresh(folder)


@ends_in("BACKEND_FAILED", "segment-1.onnx")
def weights_outside_the_bundle(folder: Path) -> None:
    def edit(graph: Any) -> None:
        for tensor in graph.initializer:
            for pair in tensor.external_data:
                if pair.key == "location":
                    pair.value = "../../../../../../../../etc/passwd"

    edit_graph(folder, edit)


@ends_in("CORRUPT", "`owner`")
def input_the_manifest_misnames(folder: Path) -> None:
    edit_json(folder, VARIANT, "segments", 1, "inputs", "hidden", to="owner")


@ends_in("CORRUPT", "no input `nowhere`")
def input_the_graph_lacks(folder: Path) -> None:
    edit_json(folder, VARIANT, "segments", 1, "inputs", "rows", to="nowhere")


@ends_in("CORRUPT", "no output `nowhere`")
def output_the_graph_lacks(folder: Path) -> None:
    edit_json(folder, VARIANT, "segments", 1, "outputs", "logits", to="nowhere")


@ends_in("CORRUPT", "`surprise`")
def input_the_manifest_does_not_know(folder: Path) -> None:
    def edit(graph: Any) -> None:
        graph.input.append(onnx.helper.make_tensor_value_info("surprise", onnx.TensorProto.FLOAT, ["T"]))

    edit_graph(folder, edit)


@ends_in("CORRUPT", "`pk1` is float32, expected float16")
def cache_of_another_dtype(folder: Path) -> None:
    edit_json(folder, VARIANT, "segments", 1, "cache_dtype", to="float16")


@ends_in("CORRUPT", "hidden_dtype")
def hidden_that_changes_dtype_on_the_way(folder: Path) -> None:
    edit_json(folder, VARIANT, "segments", 1, "hidden_dtype", to="float16")


@ends_in("CORRUPT", "has size 8 in dimension 2, expected 4")
def heads_of_another_width(folder: Path) -> None:
    edit_json(folder, MANIFEST, "model", "head_dim", to=4)


@ends_in("CORRUPT", "2 names, the segment has 1 layers")
def too_many_caches(folder: Path) -> None:
    edit_json(folder, VARIANT, "segments", 1, "inputs", "past_keys", to=["pk1", "pk1"])


@ends_in("CORRUPT", "segments")
def fewer_segments_than_exits(folder: Path) -> None:
    value = json.loads((folder / VARIANT).read_text())
    edit_json(folder, VARIANT, "segments", to=value["segments"][:2])
