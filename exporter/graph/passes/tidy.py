"""Tidies a fresh export.

1. Common subexpressions are merged: the fusion of rotary embeddings leaves one cosine and sine per use.
2. Identities and what nothing reads are removed, including whatever `SegmentModule` cut off; equal constants are stored once.
3. Metadata and doc strings are dropped: they hold stack traces with paths of the exporting machine, and differ between machines.
4. Names are made unique again; inputs and outputs keep theirs.
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
