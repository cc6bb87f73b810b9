"""The tests' bundle with nodes of a test's own in its second segment."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx.parser

from builders.bundles.bundle import BundleOptions, write_bundle
from builders.bundles.bundle_files import refresh

SEGMENT = "variants/cpu-fp32/segment-1.onnx"


def write_added(folder: Path, text: str, options: BundleOptions | None = None) -> Path:
    """A bundle whose second segment adds 0 times `number` to its log-odds, and its folder.

    text: nodes in ONNX's text form, of which one makes `number`, of any shape. They may use the graph's names and the
    constants below.
    """
    out = write_bundle(folder, options)
    model = onnx.load(out / SEGMENT, load_external_data=False)
    added = onnx.parser.parse_graph(
        f"""added (float[T, 16] state, int64[T] owner) => (float nothing) {{
            axes01 = Constant <value = int64[2] {{0, 1}}> ()
            axes012 = Constant <value = int64[3] {{0, 1, 2}}> ()
            flat = Constant <value = int64[1] {{-1}}> ()
            zero = Constant <value = int64[1] {{0}}> ()
            one = Constant <value = int64[1] {{1}}> ()
            two = Constant <value = int64[1] {{2}}> ()
            three = Constant <value = int64[1] {{3}}> ()
            {text}
            largest = ReduceMax <keepdims = 0> (number)
            zero_times = Constant <value = float {{0}}> ()
            nothing = Mul (largest, zero_times)
        }}"""
    )
    names = {name: f"added.{name}" for node in added.node for name in node.output}
    for node in added.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names[name] for name in node.output]
    logits = next(node for node in model.graph.node if "label_logits" in node.output)
    logits.output[:] = ["plain_logits"]
    model.graph.node.extend(added.node)
    model.graph.node.append(onnx.helper.make_node("Add", ["plain_logits", names["nothing"]], ["label_logits"]))
    model.opset_import.append(onnx.helper.make_opsetid("rexit", 1))
    onnx.save(model, out / SEGMENT)
    refresh(out)
    return out
