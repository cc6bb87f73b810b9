"""Makes each Gemm of a head a MatMul, then a Sub of its negated bias.

ONNX Runtime's XNNPACK provider takes a Gemm's number of rows from the graph, where it is dynamic here, and fails at the first
run. MatMul and Add would not help: ONNX Runtime makes a Gemm of them. a - (-b) is a + b to the bit.
"""

from __future__ import annotations

import onnx_ir as ir

from rexit.exporter.graph.linear.fold_linear_weights import is_plain
from rexit.exporter.graph.linear.linear import heads
from rexit.exporter.graph.passes.nodes import array, constant, is_constant, replace


def heads_without_gemm(model: ir.Model) -> ir.Model:
    """Changes the model in place and returns it. A Gemm with factors, a transposed input or a computed bias stays."""
    for node in heads(model):
        if node.op_type != "Gemm" or not is_plain(node):
            continue
        entry, weight, *bias = node.inputs
        assert entry is not None and weight is not None
        if bias and bias[0] is not None and not is_constant(bias[0]):
            continue
        if node.attributes.get_int("transB", 0):
            weight = constant(model.graph, f"{weight.name}.transposed", array(weight).T.copy())
        product = ir.node("MatMul", [entry, weight])
        nodes = [product]
        if bias and bias[0] is not None:
            product.outputs[0].shape, product.outputs[0].type = node.outputs[0].shape, node.outputs[0].type
            negated = constant(model.graph, f"{bias[0].name}.negated", -array(bias[0]))
            nodes.append(ir.node("Sub", [product.outputs[0], negated]))
        replace(model.graph, node, nodes)
    return model
