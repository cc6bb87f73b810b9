"""Exit zero: its graph, and the numbers that the graph reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

from builders.bundles.bundle_files import refresh, write_json
from builders.bundles.zero import NUMBERS, tree_graph, write_zero
from damage.table import CATALOG, DELETE, MANIFEST, Case, Row, table

WIDTH = len(NUMBERS)


def row(name: str, status: str, names: str, at: dict[str, Any], file: str = CATALOG, found: str = "opening") -> Row:
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


def graph_without_the_file(folder: Path) -> None:
    (folder / "catalog/zero.onnx").unlink()


def graph_that_no_list_has(folder: Path) -> None:
    for path, name in ((folder / CATALOG, "zero.onnx"), (folder / MANIFEST, "catalog/zero.onnx")):
        value = json.loads(path.read_text())
        del value["files"][name]
        write_json(path, value)
    refresh(folder)


CASES = table(
    row("sound_with_zero", "OK", "", {}, found="running"),
    row("sound_zero_that_no_exit_uses", "OK", "", {"/exits": [1, 2, 4]}, MANIFEST, "running"),
    graph("zero_of_one_dimension", "OK", "", tree_graph(WIDTH, ("N",)), "running"),
    graph("zero_of_another_width", "CORRUPT", f"input is [N, {WIDTH - 1}], expected [N, {WIDTH}]", tree_graph(WIDTH - 1)),
    graph("zero_with_an_unknown_operator", "BACKEND_FAILED", "zero.onnx", node_graph("Horoscope", "stars")),
    graph("zero_with_two_columns", "CORRUPT", "output is [N, 7], expected", node_graph("Neg", output=("N", WIDTH))),
    graph(
        "zero_that_gives_nan",
        "BACKEND_FAILED",
        "zero.onnx: candidate 0's log-odds, ",
        node_graph("ReduceMean", axes=[1]),  # some number is missing
        "running",
    ),
    Case("zero_that_is_noise", "BACKEND_FAILED", "zero.onnx", lambda f: _noise(f), "opening"),
    Case("zero_that_is_missing", "NOT_FOUND", "zero.onnx", graph_without_the_file, "opening"),
    Case("zero_that_no_list_has", "CORRUPT", "does not list `zero.onnx`", graph_that_no_list_has, "opening"),
    row("zero_without_numbers", "CORRUPT", "lists `zero.onnx`, the prompt has no `numbers`", {"/prompt/numbers": DELETE}),
    row("number_of_an_unknown_op", "UNSUPPORTED", "horoscope", {"/prompt/numbers/0/op": "horoscope"}),
    row("number_without_its_limit", "CORRUPT", "limit", {"/prompt/numbers/5/limit": DELETE}),
    row("number_of_nobody", "CORRUPT", "limit: is 0", {"/prompt/numbers/5/limit": 0}),
    row("number_twice", "CORRUPT", "`gcn` appears twice", {"/prompt/numbers/1": {"op": "gcn"}}),
    row(
        "score_that_the_request_lacks",
        "INVALID_ARGUMENT",
        "scores is missing",
        {"/prompt/numbers/0/op": "score"},
        found="running",
    ),
    row("an_exit_twice", "CORRUPT", "exits[1]", {"/exits": [0, 0, 2, 4]}, MANIFEST),
)


def _noise(folder: Path) -> None:
    (folder / "catalog/zero.onnx").write_bytes(bytes(range(256)) * 8)
    refresh(folder)
