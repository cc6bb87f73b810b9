"""A TensorRT plan as an ONNX graph of one node, for ONNX Runtime's TensorRT provider."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import helper

OPSET_DOMAIN = "com.microsoft"


def wrap_plan(graph: Path, plan: str, compute_capability: str, out: Path) -> None:
    """Writes `out`: one EPContext node with the inputs and outputs of `graph`, which runs the file `plan` next to it.

    compute_capability: e.g. "8.7", of the GPU the plan was built for; the provider compares it with its own.
    Raises OSError when `out` cannot be written.
    """
    whole = onnx.load(graph, load_external_data=False).graph
    node = helper.make_node(
        "EPContext",
        [value.name for value in whole.input],
        [value.name for value in whole.output],
        name=whole.name,
        domain=OPSET_DOMAIN,
        main_context=1,
        embed_mode=0,  # the plan stays a file
        ep_cache_context=plan,
        hardware_architecture=compute_capability.replace(".", ""),
        source="TensorrtExecutionProvider",
    )
    wrapped = helper.make_graph([node], whole.name, whole.input, whole.output)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(OPSET_DOMAIN, 1)]
    out.write_bytes(helper.make_model(wrapped, opset_imports=opsets, ir_version=9, producer_name="rexit").SerializeToString())
