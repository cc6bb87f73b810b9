"""Attention apart for the prefix and for a token's own candidate, under one softmax.

A token sees the P tokens of the prefix and earlier ones of its own group. The traced graph multiplies T queries with P + T keys
and masks what belongs to other groups: of the T x T part hardly anything is left. Here it is cut up instead:

1. to the prefix: [kv_heads, shared * T, d] x [d, P], one product for all query heads that share keys, nothing masked;
2. to the own group: groups are runs of neighbours, G of them, the longest of L tokens. Queries, keys and values are gathered into
   [G, L], products are [L, L] with a causal mask, and what shorter groups have behind their end is never read back;
3. scores lie side by side, [T, P + L], for one softmax; the parts of its result multiply their values, and the sums are added.

That is one node, SlateAttention, of rexit's domain (`functions.py`); the parts are its body. ONNX Runtime, having inlined it in
every layer, computes once for all of them which token lies where: only shapes that hold P are found a layer.

A prefix by itself, P = 0 and G = 1, would only be slowed down by that: an If leaves it a causal Attention. Memory for the second
part grows with G * L * L, so a pass should hold no more than `max_tokens` of G * L (`parity.chunks`, `Slate::chunk_end`).

Only an Attention whose keys and values are `past` and new ones, with the mask of `Segment.forward` and nothing else (no sliding
window, no soft-capping), in float32, is changed; others stay, and so do layers whose heads are not the first one's in number or
size, which are part of the body. For ONNX Runtime: products are its FusedMatMul.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from rexit.exporter.passes.functions import Body, argument, call, define, parameters
from rexit.exporter.passes.linear import MICROSOFT, is_constant, replace

GROUPS = "groups"
NAME = "SlateAttention"
"""Inputs query [1, heads, T, d], key and value [1, kv_heads, T, d], past_key and past_value [1, kv_heads, P, d], groups int64
[T]; attribute scale; output [1, heads, T, d]."""
_FAR = np.iinfo(np.int64).max


def split_attention(model: ir.Model) -> ir.Model:
    """Changes the model in place and returns it."""
    graph = model.graph
    groups = next((value for value in graph.inputs if value.name == GROUPS), None)
    found = [one for node in graph if (one := _match(node, groups))]
    if groups is None or not found:
        return model
    define_slate_attention(model, *found[0].sizes)
    for one in found:
        if one.sizes == found[0].sizes:
            inputs = (one.query, one.key, one.value, one.past_key, one.past_value, groups)
            scale = one.node.attributes.get_float("scale", one.head_dim**-0.5)
            replace(graph, one.node, [call(NAME, inputs, scale=scale)])
    return model


@dataclass(frozen=True)
class _Attention:
    """A node and what it reads: query [1, heads, T, d], new key and value [1, kv_heads, T, d], past ones [1, kv_heads, P, d]."""

    node: ir.Node
    query: ir.Value
    key: ir.Value
    value: ir.Value
    past_key: ir.Value
    past_value: ir.Value
    heads: int
    kv_heads: int
    head_dim: int

    @property
    def sizes(self) -> tuple[int, int, int]:
        return self.heads, self.kv_heads, self.head_dim


def _match(node: ir.Node, groups: ir.Value | None) -> _Attention | None:
    if node.op_type != "Attention" or node.domain != "" or len(node.inputs) != 4 or len(node.outputs) != 1 or groups is None:
        return None
    if node.attributes.get_int("is_causal", 0) != 0 or node.attributes.get_float("softcap", 0.0) != 0.0:
        return None
    query, keys, values, mask = node.inputs
    if query is None or query.shape is None or query.dtype != ir.DataType.FLOAT or groups.shape is None:
        return None
    key, value = _past_and_new(keys), _past_and_new(values)
    if key is None or value is None or mask is None or not _is_own_group(mask, groups):
        return None
    shapes = [one.shape for one in (query, *key, *value)]
    if any(shape is None or len(shape) != 4 or shape[0] != 1 or shape[3] != query.shape[3] for shape in shapes):
        return None
    if query.shape[2] != groups.shape[0]:
        return None
    heads, kv_heads, head_dim = query.shape[1], key[1].shape[1], query.shape[3]  # type: ignore[index]
    if not isinstance(heads, int) or not isinstance(kv_heads, int) or not isinstance(head_dim, int) or heads % kv_heads:
        return None
    return _Attention(node, query, key[1], value[1], key[0], value[0], heads, kv_heads, head_dim)


def _past_and_new(value: ir.Value | None) -> tuple[ir.Value, ir.Value] | None:
    node = _made_by(value, "Concat")
    if node is None or len(node.inputs) != 2 or node.attributes.get_int("axis", 0) not in (2, -2):
        return None
    past, new = node.inputs
    return None if past is None or new is None else (past, new)


def _is_own_group(mask: ir.Value, groups: ir.Value) -> bool:
    """Where(all of the prefix beside (same group and not later), 0, lowest), with axes of size 1 anywhere."""
    where = _made_by(mask, "Where")
    if where is None or not _filled(where.inputs[1], 0.0) or not _filled(where.inputs[2], float(np.finfo(np.float32).min)):
        return False
    both = _made_by(_without_axes(where.inputs[0]), "Concat")
    if both is None or len(both.inputs) != 2 or both.attributes.get_int("axis", 0) not in (1, -1):
        return False
    prefix, own = _made_by(both.inputs[0], "Expand"), _made_by(both.inputs[1], "And")
    if prefix is None or own is None or not _filled(prefix.inputs[0], 1.0):
        return False
    same, order = _made_by(own.inputs[0], "Equal"), _made_by(own.inputs[1], "LessOrEqual")
    if same is None or order is None or any(_without_axes(value) is not groups for value in same.inputs):
        return False
    places = [_without_axes(value) for value in order.inputs]
    # Both sides are 0 … T-1: the key's as a row, the query's as a column.
    shapes = [value.shape for value in order.inputs if value is not None]
    return (
        places[0] is places[1]
        and _made_by(places[0], "Range") is not None
        and all(shape is not None and len(shape) == 2 for shape in shapes)
        and shapes[0][0] == 1  # type: ignore[index]
    )


def _made_by(value: ir.Value | None, op: str) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == op and node.domain == "" else None


def _without_axes(value: ir.Value | None) -> ir.Value | None:
    while (node := _made_by(value, "Unsqueeze")) is not None:
        value = node.inputs[0]
    return value


def _filled(value: ir.Value | None, number: float) -> bool:
    return is_constant(value) and bool(np.all(value.const_value.numpy() == number))  # type: ignore[union-attr]


@dataclass(frozen=True)
class _Layout:
    """Which token lies where in [G, L]: functions of `groups` alone."""

    tokens: ir.Value
    """[1]: T"""
    groups: ir.Value
    """[1]: G"""
    longest: ir.Value
    """[1]: L"""
    gather: ir.Value
    """[G * L]: the token of each place"""
    back: ir.Value
    """[T]: the place of each token"""
    mask: ir.Value
    """[L, L], 0 or the lowest number"""


def _layout(body: Body, groups: ir.Value) -> _Layout:
    add, number = body.add, body.constant
    axis, second, zero, one, far = number([0]), number([1]), number(0), number(1), number([_FAR])
    count = add("Shape", groups)
    tokens = add("Squeeze", count, axis)
    # A group begins where the number is not its left neighbour's.
    left = add("Slice", groups, axis, number([-1]), axis)
    same = add("Equal", add("Slice", groups, second, far, axis), left)
    begins = add("Concat", second, add("Cast", add("Not", same), to=ir.DataType.INT64), axis=0)
    starts = add("Squeeze", add("NonZero", begins), axis)  # [G]
    ends = add("Concat", add("Slice", starts, second, far, axis), count, axis=0)
    longest = add("ReduceMax", add("Sub", ends, starts), axis, keepdims=0)
    column = add("Range", zero, longest, one)
    row = add("Unsqueeze", column, axis)
    places = add("Add", add("Unsqueeze", starts, second), row)
    inside = add("Min", places, add("Sub", tokens, one))
    group = add("Sub", add("CumSum", begins, zero), one)
    offset = add("Sub", add("Range", zero, tokens, one), add("Gather", starts, group))
    causal = add("LessOrEqual", row, add("Unsqueeze", column, second))
    lowest = number(np.finfo(np.float32).min)
    return _Layout(
        tokens=count,
        groups=add("Shape", starts),
        longest=add("Unsqueeze", longest, axis),
        gather=add("Reshape", inside, number([-1])),
        back=add("Add", add("Mul", group, longest), offset),
        mask=add("Where", causal, number(np.float32(0)), lowest),
    )


def define_slate_attention(model: ir.Model, heads: int, kv_heads: int, head_dim: int) -> None:
    """SlateAttention for these sizes, rules 1 to 3 and the If."""
    inputs = parameters("query", "key", "value", "past_key", "past_value", "groups")
    query, key, value, past_key, past_value, groups = inputs
    body, shared = Body(), heads // kv_heads
    layout = _layout(body, groups)
    axis = body.constant([0])
    prefix = body.add("Shape", past_key, start=2, end=3)  # [1]: P

    def shape(*parts: int | ir.Value) -> ir.Value:
        return body.add("Concat", *(body.constant([part]) if isinstance(part, int) else part for part in parts), axis=0)

    group_rows = (kv_heads, shared, layout.groups, layout.longest)
    query_shape, own_query_shape = body.constant([kv_heads, -1, head_dim]), shape(*group_rows, head_dim)
    own_key_shape = shape(kv_heads, 1, layout.groups, layout.longest, head_dim)
    scores_shape, own_scores_shape = shape(heads, layout.tokens, prefix), shape(heads, -1, layout.longest)
    rows = body.add("Mul", layout.tokens, body.constant([shared]))
    shares_shape, own_shares_shape = shape(kv_heads, rows, prefix), shape(*group_rows, layout.longest)
    mixed_shape, out_shape = body.constant([heads, -1, head_dim]), body.constant([1, heads, -1, head_dim])
    cut = shape(prefix, layout.longest)
    # A prefix by itself, or a candidate without one.
    lone_group, nothing = body.add("Equal", layout.groups, body.constant([1])), body.add("Equal", prefix, axis)
    alone = body.add("Squeeze", body.add("And", lone_group, nothing), axis)

    split = Body()
    add = split.add

    def scores(query: ir.Value, key: ir.Value) -> ir.Value:
        return add("FusedMatMul", query, key, domain=MICROSOFT, transB=1, alpha=argument("alpha", "scale"))

    # Constants of its own: ONNX Runtime finds those of the body, and with them the layouts, equal only if no branch reads them.
    prefix_key, prefix_value = add("Squeeze", past_key, split.constant([0])), add("Squeeze", past_value, split.constant([0]))
    # No -1 here: nobody could tell it where P is 0.
    far = add("Reshape", scores(add("Reshape", query, query_shape), prefix_key), scores_shape, allowzero=1)

    own_query = add("Reshape", add("Gather", query, layout.gather, axis=2), own_query_shape)
    own_key = add("Reshape", add("Gather", key, layout.gather, axis=2), own_key_shape)
    own_value = add("Reshape", add("Gather", value, layout.gather, axis=2), own_key_shape)
    masked = add("Reshape", add("Add", scores(own_query, own_key), layout.mask), own_scores_shape)
    near = add("Gather", masked, layout.back, axis=1)

    shares = add("Softmax", add("Concat", far, near, axis=2), axis=-1)
    far_shares, near_shares = split.node("Split", shares, cut, axis=2, outputs=2).outputs

    far_mixed = add("MatMul", add("Reshape", far_shares, shares_shape, allowzero=1), prefix_value)
    own = add("Reshape", add("Gather", near_shares, layout.gather, axis=1), own_shares_shape)
    near_mixed = add("Gather", add("Reshape", add("MatMul", own, own_value), mixed_shape), layout.back, axis=1)
    out = add("Reshape", add("Add", add("Reshape", far_mixed, mixed_shape), near_mixed), out_shape)

    whole = Body()
    causal = whole.add("Attention", query, key, value, scale=argument("scale", "scale"), is_causal=1)
    chosen = body.add(
        "If",
        alone,
        then_branch=ir.Graph([], [causal], nodes=whole.nodes, name="alone"),
        else_branch=ir.Graph([], [out], nodes=split.nodes, name="behind_a_prefix"),
    )
    define(model, NAME, inputs, body, [chosen], attributes=["scale"])
