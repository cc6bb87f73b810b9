"""Scales down large channels of linear inputs and scales up their weights, so that int8 loses less.

    x[t, k] w[k, n] = (x[t, k] / s[k]) (s[k] w[k, n])
    s[k] = max_t |x[t, k]| ^ a  /  max_n |w[k, n]| ^ (1 - a)

SmoothQuant (Xiao et al., arXiv 2211.10438). The graph's results do not change; only constants do.

1. Layers that read the same channels form a group (queries, keys and values; gate and up), including layers that read a few rows.
2. 1 / s goes into the producer of x: the weight of a norm, also of a norm of standard operators, or the columns of a linear layer
   whose output is multiplied by another value (up, for down). Where that is impossible, as an encoder's LayerNorm is its residual
   stream, too, and a GELU's output cannot be scaled before it, the layers read x through a product with 1 / s, if x is a norm's
   output, a GELU's or the graph's input. Other layers do not change, nor do caches and outputs.
3. Each group has its own a: the a with the least error on sampled tokens (`rexit.exporter.graph.chain`) after both sides
   are rounded, inputs with a scale per token (`quantize_linear_int8`) or a single scale (`quantize_dequantize`). No smoothing is
   one of the choices. SmoothQuant has a single a for the model. A token's squared error counts relative to its output, as the
   outlier token alone would decide otherwise. These two choices are ours.
4. Without samples nothing changes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from rexit.exporter.graph.linear_layers import SAMPLE, Linear, linears
from rexit.exporter.graph.passes import array, constant, is_constant
from rexit.exporter.graph.rounding import LARGEST, TINY, clipping_bound, round_weights, rounded_by

EXPONENTS = (0.4, 0.5, 0.6, 0.7, 0.8)
_CHANNEL_FLOOR = 1e-4
"""Smallest channel, relative to the largest, so that an inactive channel is not scaled up enormously."""
_ROWS = 400
"""Rows that a group's a is chosen on; more only take longer."""
_NORMS = ("RMSNormalization", "LayerNormalization")

Floats = NDArray[np.float32]
Rounding = Callable[[Floats], Floats]
"""Rounds inputs [R, K] as the variant will."""


@dataclass(frozen=True)
class _Group:
    """All readers of the channels of `source`, which are linear layers."""

    source: ir.Value
    layers: list[Linear]

    def inputs(self) -> list[ir.Value]:
        """The layers' distinct inputs that have a sample."""
        inputs = {id(linear.input): linear.input for linear in self.layers}
        return [value for value in inputs.values() if SAMPLE in value.meta]

    def sample(self) -> Floats | None:
        """About _ROWS rows of the inputs; None without a sample."""
        samples = [value.meta[SAMPLE] for value in self.inputs()]
        return np.concatenate(samples)[:: max(1, sum(map(len, samples)) // _ROWS)] if samples else None


def smooth_linear_inputs(model: ir.Model) -> ir.Model:
    """For inputs with a scale per token. Changes the model in place and returns it."""
    return _smooth(model, by_token)


def smooth_for_fixed_scales(model: ir.Model) -> ir.Model:
    """For inputs with one scale for all tokens. Changes the model in place and returns it."""
    return _smooth(model, by_one_scale)


def by_token(x: Floats) -> Floats:
    scale = np.maximum(np.abs(x).max(1, keepdims=True), np.float32(TINY)) / np.float32(LARGEST)
    rounded: Floats = (np.rint(x / scale) * scale).astype(np.float32, copy=False)
    return rounded


def by_one_scale(x: Floats) -> Floats:
    return rounded_by(x, np.float32(max(clipping_bound(x) / LARGEST, TINY)))


def _smooth(model: ir.Model, rounding: Rounding) -> ir.Model:
    graph = model.graph
    products = {linear.node for linear in linears(model)}
    for group in _groups(model):
        shared = not _only_readers(group.source, {linear.node for linear in group.layers})
        constants, sample = [] if shared else _producing_constants(group.source, products), group.sample()
        maker = group.source.producer()
        if sample is None or not (constants or maker is None or maker.op_type in ("LayerNormalization", "Gelu", "Unsqueeze")):
            continue
        weights = [_constant(linear.node, 1) for linear in group.layers]
        scale = best_smoothing(sample, np.concatenate(weights, 1), rounding)
        if scale is None:
            continue
        for node, n in constants:
            _replace_constant(graph, node, n, _constant(node, n) / scale)
        if not constants:
            _divide_inputs(graph, group, scale)
        for linear, weight in zip(group.layers, weights, strict=True):
            _replace_constant(graph, linear.node, 1, weight * scale[:, None])
        for value in {id(node.inputs[0]): node.inputs[0] for node in (linear.node for linear in group.layers)}.values():
            if value is not None and SAMPLE in value.meta:
                value.meta[SAMPLE] = value.meta[SAMPLE] / scale  # for later passes
    return model


def _divide_inputs(graph: ir.Graph, group: _Group, scale: Floats) -> None:
    """Lets the group's layers read their inputs divided by `scale`; other readers keep them as they are."""
    divided: dict[ir.Value, ir.Value] = {}
    for linear in group.layers:
        if linear.input not in divided:
            factor = constant(graph, f"{linear.input.name}.smoothing", (1 / scale).astype(np.float32))
            node = ir.node("Mul", [linear.input, factor])
            out = divided[linear.input] = node.outputs[0]
            out.name, out.type, out.shape = f"{linear.input.name}.smoothed", linear.input.type, linear.input.shape
            if SAMPLE in linear.input.meta:
                out.meta[SAMPLE] = linear.input.meta[SAMPLE]
            graph.insert_before(linear.node, node)
        linear.node.replace_input_with(0, divided[linear.input])


def best_smoothing(x: Floats, weight: Floats, rounding: Rounding = by_token) -> Floats | None:
    """s [K] for inputs x [R, K] and a weight [K, N]; None if no s improves on no smoothing."""
    exact = x @ weight
    size = np.maximum((exact**2).sum(1), np.float32(TINY))

    def error(scale: Floats) -> float:
        product = rounding(x / scale) @ _rounded_columns(weight * scale[:, None])
        return float((((product - exact) ** 2).sum(1) / size).mean())

    top, most = np.abs(x).max(0), np.abs(weight).max(1)
    if not (np.isfinite(top).all() and top.any() and most.any()):
        return None
    scales = [_scale(top, most, exponent) for exponent in EXPONENTS]
    errors = [error(scale) for scale in scales]
    best = int(np.argmin(errors))
    return scales[best] if errors[best] < error(np.ones_like(top)) else None


def _scale(top: Floats, most: Floats, exponent: float) -> Floats:
    logarithms = [np.log(np.maximum(values, values.max() * np.float32(_CHANNEL_FLOOR))) for values in (top, most)]
    power = exponent * logarithms[0] - (1 - exponent) * logarithms[1]
    scale: Floats = np.exp(power - power.mean()).astype(np.float32)
    return scale


def _rounded_columns(weight: Floats) -> Floats:
    values, scale = round_weights(weight)
    rounded: Floats = values.astype(np.float32) * scale
    return rounded


def _groups(model: ir.Model) -> list[_Group]:
    groups: dict[int, _Group] = {}
    for linear in linears(model):
        source = _whole(linear.input)
        groups.setdefault(id(source), _Group(source, [])).layers.append(linear)
    return list(groups.values())


def _whole(value: ir.Value) -> ir.Value:
    """The value, or the value that its rows are gathered from."""
    node = value.producer()
    while node is not None and _takes_rows(node) and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    return value


def _takes_rows(node: ir.Node) -> bool:
    source = node.inputs[0]
    if node.op_type != "Gather" or node.domain or source is None or source.shape is None or is_constant(source):
        return False
    rank = len(source.shape)
    return node.attributes.get_int("axis", 0) % rank != rank - 1


def _only_readers(value: ir.Value, layers: set[ir.Node]) -> bool:
    """Whether all readers of the value, or of rows of it, are among the layers."""
    return not value.is_graph_output() and all(
        use.idx == 0 and (use.node in layers or (_takes_rows(use.node) and _only_readers(use.node.outputs[0], layers)))
        for use in value.uses()
    )


def _producing_constants(value: ir.Value, products: set[ir.Node]) -> list[tuple[ir.Node, int]]:
    """The constants, as (node, input), to divide by s so that the value is divided by s; empty if that is impossible."""
    node = value.producer()
    if node is None or node.domain or value is not node.outputs[0]:
        return []
    if node.op_type in _NORMS:
        weights = [(node, n) for n, weight in enumerate(node.inputs) if n and weight is not None]
        return weights if all(_per_channel(node.inputs[n], value) for _, n in weights) else []
    if node.op_type == "Mul":
        for n, factor in enumerate(node.inputs):
            if _per_channel(factor, value):
                return [(node, n)]
        for factor in node.inputs:
            linear = factor.producer() if factor is not None else None
            if linear in products and _has_one_reader(factor) and _per_channel(linear.inputs[1], value):
                return [(linear, 1)]
    return []


def _has_one_reader(value: ir.Value | None) -> bool:
    return value is not None and not value.is_graph_output() and len(value.uses()) == 1


def _per_channel(factor: ir.Value | None, value: ir.Value) -> bool:
    return (
        factor is not None
        and is_constant(factor)
        and factor.shape is not None
        and value.shape is not None
        and factor.shape[-1:] == value.shape[-1:]
    )


def _constant(node: ir.Node, n: int) -> Floats:
    value = node.inputs[n]
    assert value is not None
    return array(value)


def _replace_constant(graph: ir.Graph, node: ir.Node, n: int, numbers: Floats) -> None:
    """Gives the node a constant of its own, as other nodes may read the old constant or another one derived from it."""
    old = node.inputs[n]
    assert old is not None
    name, others = f"{old.name}.smoothed", 0
    while name in graph.initializers:
        others += 1
        name = f"{old.name}.smoothed.{others}"
    node.replace_input_with(n, constant(graph, name, numbers))
