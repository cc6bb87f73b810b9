"""Exit zero: its graph, and the numbers that the graph reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from builders.bundles.bundle_files import refresh, write_json
from builders.bundles.zero import COSINES, NUMBERS, tree_graph, write_zero
from damage.table import CATALOG, DELETE, ITEMS, MANIFEST, NOISE, Case, Row, put, removed, replaced, table

WIDTH = len(NUMBERS) + len(COSINES)


def row(name: str, names: str, at: dict[str, Any], status: str = "CORRUPT", file: str = CATALOG, found: str = "opening") -> Row:
    return Row(name, status, names, file, at, found)


def graph(name: str, status: str, names: str, model: onnx.ModelProto, found: str = "opening") -> Case:
    return Case(name, status, names, lambda folder: write_zero(folder, model), found)


def node_graph(op: str, domain: str = "", output: tuple[str | int, ...] = ("N", 1), **attributes: Any) -> onnx.ModelProto:
    """A node from the numbers to the log-odds."""
    node = helper.make_node(op, ["numbers"], ["log_odds"], domain=domain, **attributes)
    numbers = helper.make_tensor_value_info("numbers", TensorProto.FLOAT, ("N", WIDTH))
    log_odds = helper.make_tensor_value_info("log_odds", TensorProto.FLOAT, output)
    imports = [helper.make_opsetid("", 17), *([helper.make_opsetid(domain, 1)] if domain else [])]
    model = helper.make_model(helper.make_graph([node], "zero", [numbers], [log_odds]), opset_imports=imports)
    model.ir_version = 8
    return model


def graph_that_no_list_has(folder: Path) -> None:
    for path, name in ((folder / CATALOG, "zero.onnx"), (folder / MANIFEST, "catalog/zero.onnx")):
        value = json.loads(path.read_text())
        del value["files"][name]
        write_json(path, value)
    refresh(folder)


CASES = table(
    row("sound_with_zero", "", {}, "OK", found="running"),
    row("sound_zero_that_no_exit_uses", "", {"/exits": [1, 2, 4]}, "OK", file=MANIFEST, found="running"),
    graph("zero_of_one_dimension", "OK", "", tree_graph(WIDTH, ("N",)), "running"),
    graph("zero_of_one_row", "CORRUPT", "output is [1, 1], expected [N] or [N, 1]", tree_graph(WIDTH, (1, 1))),
    graph("zero_of_another_width", "CORRUPT", f"input is [N, {WIDTH - 1}], expected [N, {WIDTH}]", tree_graph(WIDTH - 1)),
    graph("zero_with_an_unknown_operator", "BACKEND_FAILED", "zero.onnx", node_graph("Horoscope", "stars")),
    graph("zero_with_two_columns", "CORRUPT", f"output is [N, {WIDTH}], expected", node_graph("Neg", output=("N", WIDTH))),
    graph(
        "zero_that_gives_nan",
        "BACKEND_FAILED",
        "zero.onnx: candidate 0's log-odds, ",
        node_graph("ReduceMean", axes=[1]),  # some number is missing
        "running",
    ),
    Case("zero_that_is_noise", "BACKEND_FAILED", "zero.onnx", replaced("catalog/zero.onnx", NOISE)),
    Case("zero_that_is_missing", "NOT_FOUND", "zero.onnx", removed("catalog/zero.onnx")),
    Case("zero_that_no_list_has", "CORRUPT", "does not list `zero.onnx`", graph_that_no_list_has),
    row("zero_without_numbers", "lists `zero.onnx`, the prompt has no `numbers`", {"/prompt/numbers": DELETE}),
    row("number_of_an_unknown_op", "horoscope", {"/prompt/numbers/0/op": "horoscope"}, "UNSUPPORTED"),
    row("number_without_its_limit", "limit", {"/prompt/numbers/5/limit": DELETE}),
    row("number_of_nobody", "limit: is 0", {"/prompt/numbers/5/limit": 0}),
    row("number_of_too_many", "limit: is 1001", {"/prompt/numbers/10/limit": 1001}),
    row("cosine_without_its_column", "column", {"/prompt/numbers/7/column": DELETE}),
    row("cosine_of_an_unknown_column", "`taste` is not a column of vectors", {"/prompt/numbers/7/column": "taste"}),
    row("cosine_twice", "`max_cosine` appears twice", {"/prompt/numbers/10/limit": 2}),
    row("cosines_without_their_vectors", "`text` is not a column of vectors", {"vector.text": DELETE}, file=ITEMS),
    row("vectors_of_too_few_items", "vector.look", {"vector.look": lambda rows: rows[1:]}, file=ITEMS),
    row(
        "vectors_too_wide",
        "`vector.look` has rows of 65537, expected at most 65536",
        {"vector.look": lambda rows: np.zeros((len(rows), 65537), "f2")},
        file=ITEMS,
    ),
    row("vectors_of_another_type", "vector.look", {"vector.look": lambda rows: rows.astype("f4")}, file=ITEMS),
    row(
        "vector_with_nan",
        "`vector.text` of item row 5 is not finite",
        {"vector.text": put((5, 0), float("nan"))},
        file=ITEMS,
        found="running",
    ),
    row("number_twice", "`gcn` appears twice", {"/prompt/numbers/1": {"op": "gcn"}}),
    row(
        "score_that_the_request_lacks",
        "scores is missing",
        {"/prompt/numbers/0": {"op": "score", "name": "bm25"}},
        "INVALID_ARGUMENT",
        found="running",
    ),
    row("an_exit_twice", "exits[1]", {"/exits": [0, 0, 2, 4]}, file=MANIFEST),
)
