"""Graphs, their weights, and what variant.json says of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

from builders.bundles.bundle_files import refresh
from damage.table import DELETE, MANIFEST, NOISE, SEGMENT, VARIANT, Case, Row, case, replaced, table


def edit_graph(path: Path, edit: Callable[[Any], None]) -> None:
    model = onnx.load(path, load_external_data=False)
    edit(model.graph)
    onnx.save(model, path)


def row(name: str, names: str, at: dict[str, Any], file: str = VARIANT) -> Row:
    return Row(name, "CORRUPT", names, file, at)


CASES = table(
    row("input_the_manifest_misnames", "`owner`", {"/segments/1/inputs/hidden": "owner"}),
    row("input_the_graph_lacks", "no input `nowhere`", {"/segments/1/inputs/rows": "nowhere"}),
    row("output_the_graph_lacks", "no output `nowhere`", {"/segments/1/outputs/logits": "nowhere"}),
    row("cache_of_another_dtype", "`pk1` is float32, expected float16", {"/segments/1/cache_dtype": "float16"}),
    row("hidden_that_changes_dtype_on_the_way", "hidden_dtype", {"/segments/1/hidden_dtype": "float16"}),
    row("heads_of_another_width", "has size 8 in dimension 2, expected 4", {"/model/head_dim": 4}, MANIFEST),
    row("too_many_caches", "2 names, the segment has 1 layers", {"/segments/1/inputs/past_keys": ["pk1", "pk1"]}),
    row("fewer_segments_than_exits", "segments", {"/segments/2": DELETE}),
    Case("graph_that_is_noise", "BACKEND_FAILED", "segment-1.onnx", replaced(SEGMENT, NOISE)),
)


@case("BACKEND_FAILED", "segment-1.onnx")
def weights_cut_off(folder: Path) -> None:
    os.truncate(folder / f"{SEGMENT}.data", 16)
    refresh(folder)


@case("BACKEND_FAILED", "segment-1.onnx")
def weights_outside_the_bundle(folder: Path) -> None:
    def edit(graph: Any) -> None:
        for tensor in graph.initializer:
            for pair in tensor.external_data:
                if pair.key == "location":
                    pair.value = "../../../../../../../../etc/passwd"

    edit_graph(folder / SEGMENT, edit)
    refresh(folder)


@case("CORRUPT", "`surprise`")
def input_the_manifest_does_not_know(folder: Path) -> None:
    surprise = onnx.helper.make_tensor_value_info("surprise", onnx.TensorProto.FLOAT, ["T"])
    edit_graph(folder / SEGMENT, lambda graph: graph.input.append(surprise))
    refresh(folder)


@case("CORRUPT", "input `ids` has size 3 in dimension 0, expected a dynamic size")
def graph_that_takes_three_tokens(folder: Path) -> None:
    def edit(graph: Any) -> None:
        (ids,) = (value for value in graph.input if value.name == "ids")
        ids.type.tensor_type.shape.dim[0].dim_value = 3

    edit_graph(folder / "variants/cpu-fp32/segment-0.onnx", edit)
    refresh(folder)


CASES |= table(weights_cut_off, weights_outside_the_bundle, input_the_manifest_does_not_know, graph_that_takes_three_tokens)
