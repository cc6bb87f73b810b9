"""Makes each Gemm of a head a MatMul, then a Sub of its negated bias.

ONNX Runtime's XNNPACK provider takes a Gemm's number of rows from the graph, where it is dynamic here, and fails at the first
run. MatMul and Add would not help: ONNX Runtime makes a Gemm of them. a - (-b) is a + b to the bit.
"""

from __future__ import annotations

import onnx_ir as ir

from rexit.exporter.graph.linear.fold_linear_weights import gemm_bias, is_plain, product_of
from rexit.exporter.graph.linear.linear import heads
from rexit.exporter.graph.passes.nodes import array, constant, is_constant, replace


def heads_without_gemm(model: ir.Model) -> ir.Model:
    """Changes the model in place and returns it. A Gemm with factors, a transposed input or a computed bias stays."""
    for node in heads(model):
        if node.op_type != "Gemm" or not is_plain(node):
            continue
        bias = gemm_bias(node)
        if bias is not None and not is_constant(bias):
            continue
        nodes = [product_of(model.graph, node)]
        if bias is not None:
            negated = constant(model.graph, f"{bias.name}.negated", -array(bias))
            nodes.append(ir.node("Sub", [nodes[0].outputs[0], negated]))
        replace(model.graph, node, nodes)
    return model
