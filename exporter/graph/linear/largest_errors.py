"""Which linear layers lose the most in int8, for a variant that keeps them in bfloat16.

1. Layers that read one input are one group: queries, keys and values; gate and up. A group's error is that of
   `smooth_linear_inputs`: the squared error of a sampled token's output relative to that output, mean over the tokens.
2. GROUPS groups with the largest errors are kept, as many as two decoder layers have, but at most one in SHARE.
"""

from __future__ import annotations

import heapq

import numpy as np
import onnx_ir as ir

from rexit.exporter.graph.linear.linear import SAMPLE, by_input, linears
from rexit.exporter.graph.linear.smooth_linear_inputs import relative_error
from rexit.exporter.graph.passes.nodes import array

GROUPS, SHARE = 8, 3


def errors(model: ir.Model) -> dict[str, tuple[float, list[str]]]:
    """Error and weights' names of each group with a sample, by name of its input, in a smoothed float32 graph."""
    found = {}
    for group in by_input(linears(model)):
        x, name = group[0].input.meta.get(SAMPLE), group[0].input.name
        if x is not None and name is not None:
            weights = [linear.weight.name or "" for linear in group]
            found[name] = (relative_error(x, np.concatenate([array(linear.weight) for linear in group], 1)), weights)
    return found


def largest(by_segment: list[dict[str, tuple[float, list[str]]]]) -> list[dict[str, list[str]]]:
    """The groups to keep: by segment, the weights' names by name of the input. by_segment: `errors` of each segment."""
    groups = [(error, k, name) for k, segment in enumerate(by_segment) for name, (error, _) in segment.items()]
    kept: list[dict[str, list[str]]] = [{} for _ in by_segment]
    for _, k, name in heapq.nlargest(min(GROUPS, len(groups) // SHARE), groups):
        kept[k][name] = by_segment[k][name][1]
    return kept
