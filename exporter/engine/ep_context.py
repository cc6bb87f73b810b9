"""A TensorRT plan as an ONNX graph of one node, for ONNX Runtime's TensorRT provider."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import helper

OPSET_DOMAIN = "com.microsoft"


def wrap_plan(graph: Path, plan: str, compute_capability: str, out: Path) -> None:
    """Writes a graph of one EPContext node that runs a plan.

    Args:
        graph: the segment's graph, whose inputs and outputs the node has.
        plan: the plan's file name; it stands next to `out`.
        compute_capability: of the GPU that the plan was built for, e.g. "8.7"; the provider compares it with its own.
        out: the file to write.

    Raises:
        OSError: `out` cannot be written.
    """
    source = onnx.load(graph, load_external_data=False).graph
    node = helper.make_node(
        "EPContext",
        [value.name for value in source.input],
        [value.name for value in source.output],
        name=source.name,
        domain=OPSET_DOMAIN,
        main_context=1,
        embed_mode=0,  # the plan stays a file
        ep_cache_context=plan,
        hardware_architecture=compute_capability.replace(".", ""),
        source="TensorrtExecutionProvider",
    )
    wrapped = helper.make_graph([node], source.name, source.input, source.output)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(OPSET_DOMAIN, 1)]
    out.write_bytes(helper.make_model(wrapped, opset_imports=opsets, ir_version=9, producer_name="rexit").SerializeToString())
