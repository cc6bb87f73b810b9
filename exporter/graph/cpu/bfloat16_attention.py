"""Attention with products in bfloat16, for a variant whose gate allows for it.

1. SlateAttention becomes SlateAttentionBFloat16. Its function rounds queries, keys, values and the softmax's numerators; scores,
   the softmax and all sums stay float32.
2. The runtime's kernel multiplies pairs of bfloat16 where the processor can (AVX512-BF16, Armv8.6): twice as many products per
   instruction. Other processors round the same numbers and multiply floats, so that all agree.

For graphs after `half_cache`.
"""

from __future__ import annotations

import onnx_ir as ir

from rexit.exporter.graph.cpu.slate_attention import NAME, define_slate_attention
from rexit.exporter.graph.passes.functions import DOMAIN, call
from rexit.exporter.graph.passes.nodes import replace

ROUNDED = "SlateAttentionBFloat16"
"""Inputs, attribute and output as SlateAttention's."""


def bfloat16_attention(model: ir.Model) -> ir.Model:
    """Changes the model in place and returns it."""
    nodes = [node for node in model.graph if (node.domain, node.op_type) == (DOMAIN, NAME)]
    if not nodes:
        return model
    for node in nodes:
        inputs = [value for value in node.inputs if value is not None]
        attributes = {name: node.attributes.get_float(name) for name in node.attributes}
        replace(model.graph, node, [call(ROUNDED, inputs, 1, **attributes)])
    for function in [function for function in model.functions.values() if function.name == NAME]:
        del model.functions[function.identifier()]
    define_slate_attention(model, ROUNDED, rounded=True)
    return model
