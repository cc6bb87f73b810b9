"""Rewrites a float16 (half) graph so that ONNX Runtime's CPU rounds every half: float32 operators with rounded results.

ONNX Runtime has few half kernels for the CPU. By default it computes in float32 and rounds only where it must, so that a sum that
overflows in half, and is infinite on a GPU, goes unnoticed. Here

1. an operator with half results computes in float32, and two Casts, to half and back, round each result;
2. half constants and half inputs are read through a Cast;
3. half outputs are Casts of rounded values.

So products are accumulated in float32 and rounded once, as on tensor cores. No accelerator guarantees the order of a sum.
"""

from __future__ import annotations

import onnx_ir as ir

from rexit.exporter.graph.passes.nodes import FLOAT, HALF, cast


def rounded(model: ir.Model) -> ir.Model:
    """Changes the model in place and returns it. Names and types of inputs and outputs stay."""
    graph = model.graph
    nodes = list(graph)
    outputs = {value: n for n, value in enumerate(graph.outputs)}
    for value in (*graph.inputs, *graph.initializers.values()):
        if value.dtype == HALF and (readers := list(value.uses())):
            wide = cast(value, FLOAT, "wide")
            graph.insert_before(nodes[0], wide)
            for reader, n in readers:
                reader.replace_input_with(n, wide.outputs[0])
    for node in nodes:
        if node.op_type == "Cast" and node.attributes.get_int("to", 0) == HALF:
            node.attributes["to"] = ir.AttrInt64("to", FLOAT)
        for value in node.outputs:
            if value.dtype != HALF:
                continue
            readers, name = list(value.uses()), value.name
            value.dtype = FLOAT
            narrow = cast(value, HALF, "rounded")
            wide = cast(narrow.outputs[0], FLOAT, "wide")
            graph.insert_after(node, [narrow, wide])
            for reader, n in readers:
                reader.replace_input_with(n, wide.outputs[0])
            if value in outputs:
                value.name, narrow.outputs[0].name = f"{name}.exact", name
                graph.outputs[outputs[value]] = narrow.outputs[0]
    return model
