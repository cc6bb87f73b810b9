"""Variants beside cpu-fp32: the same model, its graphs rewritten, with the same golden samples if there are any."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from builders.bundles.bundle_files import refresh, write_json

QUANTIZED = "cpu-int8"
TENSORRT, TENSORRT_HALF = "tensorrt-fp32", "tensorrt-fp16"


ZERO_POINT = 128


@dataclass(frozen=True)
class Kind:
    """How a variant differs from cpu-fp32. rewrite: its graphs; dtype and cache_dtype: of hidden states, and of keys and values;
    tolerance: of its log-odds, which reach 40; None: as there."""

    variant: dict[str, Any]
    rewrite: Callable[[onnx.ModelProto], onnx.ModelProto] | None = None
    dtype: str = "float32"
    cache_dtype: str = "float32"
    tolerance: float | None = None
    limits: dict[str, int] = field(default_factory=dict)


def quantized(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with 8-bit weights, in standard ops, as an exported `int8` variant has them. The head stays float32;
    everything else follows two rules.

    1. W [K, N] becomes int8 with one scale a column, absmax / 127.
    2. X [T, K] becomes uint8 with zero point 128 and one scale a row, absmax / 127; X W is MatMulInteger times both scales.
    """
    weights: dict[str, NDArray[Any]] = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    nodes: list[Any] = []
    added: dict[str, NDArray[Any]] = {
        "q.zero": np.array(ZERO_POINT, np.uint8),
        "q.shift": np.array(ZERO_POINT, np.float32),
        "q.top": np.array(127, np.float32),
        "q.least": np.array(1e-8, np.float32),
    }
    for node in model.graph.node:
        if node.op_type != "MatMul" or node.input[1] not in weights or node.input[1] == "head":
            nodes.append(node)
            continue
        x, w = node.input
        out = node.output[0]
        scale = np.asarray(np.abs(weights[w]).max(0) / 127)
        added[f"{w}.int8"] = np.asarray(np.round(weights.pop(w) / scale), np.int8)
        added[f"{w}.scale"] = scale.astype(np.float32)

        def op(kind: str, *inputs: str, name: str, **attributes: Any) -> str:
            nodes.append(helper.make_node(kind, inputs, [name], **attributes))
            return name

        top = op("ReduceMax", op("Abs", x, name=f"{out}.abs"), name=f"{out}.top", axes=[-1], keepdims=1)
        step = op("Max", op("Div", top, "q.top", name=f"{out}.raw"), "q.least", name=f"{out}.step")
        steps = op("Round", op("Div", x, step, name=f"{out}.steps"), name=f"{out}.round")
        level = op("Cast", op("Add", steps, "q.shift", name=f"{out}.level"), name=f"{out}.uint8", to=TensorProto.UINT8)
        sums = op("MatMulInteger", level, f"{w}.int8", "q.zero", name=f"{out}.sums")
        rows = op("Mul", op("Cast", sums, name=f"{out}.float", to=TensorProto.FLOAT), step, name=f"{out}.rows")
        op("Mul", rows, f"{w}.scale", name=out)
    initializers = [numpy_helper.from_array(value, name) for name, value in {**weights, **added}.items()]
    graph = helper.make_graph(nodes, model.graph.name, model.graph.input, model.graph.output, initializers)
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def halved(model: onnx.ModelProto, hidden: bool = True) -> onnx.ModelProto:
    """The same graph with keys and values in float16, with `hidden` the hidden states too. It computes in float32 as before."""
    graph = model.graph
    exact_values = {"label_logits"} if hidden else {"label_logits", "state", "state_out"}
    inputs, outputs = (
        [v for v in values if v.type.tensor_type.elem_type == TensorProto.FLOAT and v.name not in exact_values]
        for values in (graph.input, graph.output)
    )
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


def padding_masked(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with rows of the past visible up to the first token's position, as `mask_past_padding` has it."""
    nodes = model.graph.node
    ones = next(node for node in nodes if node.op_type == "ConstantOfShape")
    visible = next(node for node in nodes if list(node.input) == list(ones.output))
    past = next(value.name for value in model.graph.input if value.name.startswith("pk"))
    at = list(nodes).index(ones)
    for n, node in enumerate(
        (
            helper.make_node("Gather", [f"{past}_shape", "one"], [f"{past}_rows"]),
            helper.make_node("Range", ["zero", f"{past}_rows", "one"], [f"{past}_row"]),
            helper.make_node("Gather", ["place", "zero"], ["prefix_tokens"]),
            helper.make_node("Less", [f"{past}_row", "prefix_tokens"], ["in_prefix"]),
            helper.make_node("Expand", ["in_prefix", ones.input[0]], [visible.output[0]]),
        )
    ):
        nodes.insert(at + n, node)
    nodes.insert(at, helper.make_node("Shape", [past], [f"{past}_shape"]))
    nodes.remove(ones)
    nodes.remove(visible)
    return model


KINDS = {
    QUANTIZED: Kind(
        {"precision": "int8"}, lambda model: halved(quantized(model), hidden=False), cache_dtype="float16", tolerance=1.5
    ),
    # In standard ops, which TensorRT's compilers take.
    TENSORRT: Kind({"target": "tensorrt", "backend": "tensorrt", "past_padding": True}, padding_masked),
    TENSORRT_HALF: Kind(
        {"target": "tensorrt", "precision": "fp16", "backend": "tensorrt", "past_padding": True},
        lambda model: halved(padding_masked(model)),
        "float16",
        "float16",
        tolerance=1.5,
        limits={"max_tokens": 48},  # several candidates a pass, and more than one pass for all items
    ),
}


def add_variant(folder: Path, kind: str, name: str | None = None) -> None:
    """variants/NAME beside cpu-fp32, without engines; `kind` names it unless told."""
    kind_of_variant, name = KINDS[kind], name or kind
    part = folder / "variants" / name
    shutil.copytree(folder / "variants" / "cpu-fp32", part)
    if kind_of_variant.rewrite is not None:
        for path in part.glob("*.onnx"):
            model = kind_of_variant.rewrite(onnx.load(path))
            path.with_name(f"{path.name}.data").unlink()
            onnx.save(model, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=256)
    variant = json.loads((part / "variant.json").read_text())
    variant |= {"name": name, **kind_of_variant.variant}
    variant["limits"] |= kind_of_variant.limits
    for segment in variant["segments"]:
        segment |= {"hidden_dtype": kind_of_variant.dtype, "cache_dtype": kind_of_variant.cache_dtype}
    if kind_of_variant.tolerance is not None:
        variant["parity"]["tolerance"] = kind_of_variant.tolerance
    write_json(part / "variant.json", variant)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["variants"].append(name)
    manifest["files"][f"variants/{name}/variant.json"] = {}
    write_json(folder / "manifest.json", manifest)
    refresh(folder, name)
