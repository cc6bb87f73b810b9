"""Cleans up an exported graph.

1. Merges common subexpressions: the fusion of rotary embeddings leaves a cosine and sine per use.
2. Removes identities and unread values, including the parts that `SegmentModule` cut off; stores equal constants once.
3. Drops metadata and doc strings: they hold stack traces with paths of the exporting machine.
4. Makes names unique; inputs and outputs keep theirs.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common


def tidy(model: ir.Model) -> ir.Model:
    """Changes the model in place and returns it."""
    run = ir.passes.Sequential(
        common.CommonSubexpressionEliminationPass(),
        common.IdentityEliminationPass(),
        common.DeduplicateInitializersPass(),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),
        common.RemoveUnusedOpsetsPass(),
        common.ClearMetadataAndDocStringPass(),
        common.NameFixPass(),
        common.TopologicalSortPass(),
    )
    out = run(model).model
    out.metadata_props.clear()
    for value in (*out.graph.inputs, *out.graph.outputs, *out.graph.initializers.values()):
        value.metadata_props.clear()
        value.doc_string = None
    for node in out.graph:
        for value in node.outputs:
            value.metadata_props.clear()
    return out
