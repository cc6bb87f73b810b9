"""Exit zero: numbers of a catalog's program, and a graph over them of two small trees."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
from onnx import TensorProto, helper

from builders.bundles.bundle_files import edit_json, entry, refresh
from builders.bundles.catalog import CatalogContents

NUMBERS: list[dict[str, Any]] = [
    {"op": "gcn"},
    {"op": "user_count"},
    {"op": "user_like_rate"},
    {"op": "item_count"},
    {"op": "item_like_rate"},
    {"op": "similar_like_rate", "limit": 2},
    {"op": "nearest_like_rate", "limit": 3},
]
"""All that the catalog gives."""
COSINES: list[dict[str, Any]] = [
    {"op": "mean_cosine", "column": "text"},
    {"op": "max_cosine", "column": "text", "limit": 2},
    {"op": "mean_cosine", "column": "look"},
    {"op": "max_cosine", "column": "text", "limit": 8},
]
"""What columns of vectors give."""
SCORES: list[dict[str, Any]] = [{"op": "score", "name": "bm25"}, {"op": "score", "name": "age"}]
"""What requests bring."""
MISSING = -1000.0


def with_numbers(contents: CatalogContents, numbers: Sequence[dict[str, Any]] = NUMBERS) -> CatalogContents:
    """The same catalog with numbers for exit zero."""
    info = copy.deepcopy(contents.info)
    info["prompt"]["numbers"] = list(numbers)
    return CatalogContents(info, contents.tables)


def with_vectors(contents: CatalogContents) -> CatalogContents:
    """The same catalog with two columns of item vectors, which some items lack, and all numbers."""
    tables, random = copy.deepcopy(contents.tables), np.random.default_rng(2)
    for name, width in (("text", 24), ("look", 5)):
        rows = random.normal(size=(contents.info["counts"]["items"], width))
        rows[random.random(len(rows)) < 0.3] = 0
        rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
        tables["items.safetensors"][f"vector.{name}"] = rows.astype(np.float16)
    return with_numbers(CatalogContents(contents.info, tables), [*NUMBERS, *COSINES])


def tree_graph(width: int, output: Sequence[str | int] = ("N", 1)) -> onnx.ModelProto:
    """log-odds = 0.25 + a tree per number: 1 + n / 8 where number n is above 0.25, -1 below, 0.5 where it is NaN."""
    nodes: dict[str, list[Any]] = {
        name: []
        for name in (
            *("treeids", "nodeids", "featureids", "modes", "values", "truenodeids", "falsenodeids"),
            "missing_value_tracks_true",
        )
    }
    leaves: dict[str, list[Any]] = {name: [] for name in ("treeids", "nodeids", "ids", "weights")}
    for tree in range(width):
        # NaN is not <= -1e30, so that only `missing` leads to node 1.
        rows: list[tuple[Any, ...]] = [
            (0, tree, "BRANCH_LEQ", -1e30, 1, 2, 1),
            (1, 0, "LEAF", 0.0, 0, 0, 0),
            (2, tree, "BRANCH_LEQ", 0.25, 3, 4, 0),
            (3, 0, "LEAF", 0.0, 0, 0, 0),
            (4, 0, "LEAF", 0.0, 0, 0, 0),
        ]
        for row in rows:
            for name, value in zip(nodes, (tree, *row), strict=True):
                nodes[name].append(value)
        for node, weight in ((1, 0.5), (3, -1.0), (4, 1.0 + tree / 8)):
            for name, value in zip(leaves, (tree, node, 0, weight), strict=True):
                leaves[name].append(value)
    attributes: Any = {f"nodes_{name}": values for name, values in nodes.items()} | {f"target_{k}": v for k, v in leaves.items()}
    tree_output = "log_odds" if len(output) == 2 else "column"
    graph_nodes = [
        helper.make_node(
            "TreeEnsembleRegressor",
            ["numbers"],
            [tree_output],
            domain="ai.onnx.ml",
            n_targets=1,
            base_values=[0.25],
            **attributes,
        )
    ]
    if len(output) == 1:
        graph_nodes.append(helper.make_node("Squeeze", ["column", "axis"], ["log_odds"]))
    graph = helper.make_graph(
        graph_nodes,
        "zero",
        [helper.make_tensor_value_info("numbers", TensorProto.FLOAT, ["N", width])],
        [helper.make_tensor_value_info("log_odds", TensorProto.FLOAT, output)],
        [helper.make_tensor("axis", TensorProto.INT64, [1], [1])] if len(output) == 1 else [],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)])
    model.ir_version = 8
    return model


def column_graph(width: int, column: int) -> onnx.ModelProto:
    """log-odds = a number of the candidate; MISSING where it is missing."""
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
    zero (float[N, {width}] numbers) => (float[N, 1] log_odds) {{
      at = Constant <value_ints = [{column}]> ()
      values = Gather <axis = 1> (numbers, at)
      missing = IsNaN (values)
      none = Constant <value_float = {MISSING}> ()
      log_odds = Where (missing, none, values)
    }}"""
    return onnx.parser.parse_model(text)


def write_zero(folder: Path, model: onnx.ModelProto) -> None:
    """Replaces exit zero's graph of a bundle."""
    onnx.save(model, folder / "catalog" / "zero.onnx")
    refresh(folder)


def add_score_exit(folder: Path, names: Sequence[str] = ("bm25",)) -> None:
    """Puts exit zero before the segments of a bundle without a catalog: its log-odds are the first score."""
    manifest = json.loads((folder / "manifest.json").read_text())
    onnx.save(column_graph(len(names), 0), folder / "zero.onnx")
    tokens = {**manifest["tokens"], "scores": list(names)}
    files = {**manifest["files"], "zero.onnx": entry(folder / "zero.onnx")}
    edit_json(folder / "manifest.json", exits=[0, *manifest["exits"]], tokens=tokens, files=files)
