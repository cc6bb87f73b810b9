"""Attention apart for the prefix and for a token's own candidate, under one softmax.

A token sees the P tokens of the prefix and earlier ones of its own group. The traced graph multiplies T queries with P + T keys
and masks what belongs to other groups: of the T x T part hardly anything is left. Here it is cut up instead:

1. to the prefix: [kv_heads, shared * T, d] x [d, P], one product for all query heads that share keys, nothing masked;
2. to the own group: groups are runs of neighbours, G of them, the longest of L tokens. Queries, keys and values are gathered into
   [G, L], products are [L, L] with a causal mask, and what shorter groups have behind their end is never read back;
3. scores lie side by side, [T, P + L], for one softmax; the parts of its result multiply their values, and the sums are added.

A prefix by itself, P = 0 and G = 1, would only be slowed down by that: an If leaves it a causal Attention. Memory for the second
part grows with G * L * L, so a pass should hold no more than `max_tokens` of G * L (`parity.chunks`, `Slate::chunk_end`).

Only an Attention whose keys and values are `past` and new ones, with the mask of `Segment.forward` and nothing else (no sliding
window, no soft-capping), in float32, is changed; others stay. For ONNX Runtime: products are its FusedMatMul.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from rexit.exporter.passes.linear import MICROSOFT, constant, is_constant, replace

GROUPS = "groups"
_FAR = np.iinfo(np.int64).max


def split_attention(model: ir.Model) -> ir.Model:
    """Changes the model in place and returns it."""
    graph = model.graph
    groups = next((value for value in graph.inputs if value.name == GROUPS), None)
    found = [one for node in graph if (one := _match(node, groups))]
    if groups is None or not found:
        return model
    layout = _Layout(graph, groups, found[0].node)
    for one in found:
        _split(graph, one, layout)
    graph.opset_imports[MICROSOFT] = 1
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
    if any(shape is None or len(shape) != 4 or shape[0] != 1 for shape in shapes) or query.shape[2] != groups.shape[0]:
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


class _Layout:
    """Which token lies where in [G, L], computed once for all layers, before the first attention."""

    def __init__(self, graph: ir.Graph, groups: ir.Value, first: ir.Node) -> None:
        self._graph, self._first = graph, first
        axis, zero, one = self.number("axis", [0]), self.number("zero", 0), self.number("one", 1)
        second, far = self.number("second", [1]), self.number("far", [_FAR])
        self.tokens = self.add("Shape", groups)  # [1]: T
        tokens = self.add("Squeeze", self.tokens, axis)
        # A group begins where the number is not its left neighbour's.
        left = self.add("Slice", groups, axis, self.number("last", [-1]), axis)
        same = self.add("Equal", self.add("Slice", groups, second, far, axis), left)
        begins = self.add("Concat", self.number("true", [True]), self.add("Not", same), axis=0)
        starts = self.add("Squeeze", self.add("NonZero", begins), axis)  # [G]
        ends = self.add("Concat", self.add("Slice", starts, second, far, axis), self.tokens, axis=0)
        longest = self.add("ReduceMax", self.add("Sub", ends, starts), axis, keepdims=0)
        self.groups, self.longest = self.add("Shape", starts), self.add("Unsqueeze", longest, axis)  # [1]: G, L
        column = self.add("Range", zero, longest, one)
        row = self.add("Unsqueeze", column, axis)
        places = self.add("Add", self.add("Unsqueeze", starts, second), row)
        inside = self.add("Min", places, self.add("Sub", tokens, one))
        self.gather = self.add("Reshape", inside, self.number("flat", [-1]))  # [G * L]: the token of each place
        group = self.add("Sub", self.add("CumSum", self.add("Cast", begins, to=ir.DataType.INT64), zero), one)
        offset = self.add("Sub", self.add("Range", zero, tokens, one), self.add("Gather", starts, group))
        self.back = self.add("Add", self.add("Mul", group, longest), offset)  # [T]: the place of each token
        causal = self.add("LessOrEqual", row, self.add("Unsqueeze", column, second))
        self._lone_group = self.add("Equal", self.groups, second)
        lowest = constant(graph, "split.lowest", np.array(np.finfo(np.float32).min))
        self.mask = self.add("Where", causal, constant(graph, "split.visible", np.array(0, np.float32)), lowest)  # [L, L]
        self._sizes: dict[tuple[int, ...], dict[str, ir.Value]] = {}
        self.prefix: ir.Value | None = None
        self.alone: ir.Value | None = None

    def add(self, op: str, *inputs: ir.Value, **attributes: int) -> ir.Value:
        node = ir.node(op, inputs, attributes)
        self._graph.insert_before(self._first, node)
        return node.outputs[0]

    def number(self, name: str, value: object) -> ir.Value:
        name = f"split.{name}"
        known = self._graph.initializers.get(name)
        return known if known is not None else constant(self._graph, name, np.array(value))

    def sizes(self, one: _Attention) -> dict[str, ir.Value]:
        """Shapes for Reshape, of all layers with the same heads."""
        heads, kv_heads, head_dim = key = (one.heads, one.kv_heads, one.head_dim)
        if key in self._sizes:
            return self._sizes[key]
        shared = heads // kv_heads
        if self.prefix is None:
            self.prefix = self.add("Shape", one.past_key, start=2, end=3)  # [1]: P
            nothing = self.add("Equal", self.prefix, self.number("axis", [0]))
            # A prefix by itself, or a candidate without one.
            self.alone = self.add("Squeeze", self.add("And", self._lone_group, nothing), self.number("axis", [0]))

        def shape(*parts: int | ir.Value) -> ir.Value:
            values = [self.number(f"size.{part}", [part]) if isinstance(part, int) else part for part in parts]
            return self.add("Concat", *values, axis=0)

        rows = self.add("Mul", self.tokens, self.number(f"size.{shared}", [shared]))
        self._sizes[key] = {
            "query": self.number(f"query.{kv_heads}.{head_dim}", [kv_heads, -1, head_dim]),
            "scores": shape(heads, self.tokens, self.prefix),
            "shares": shape(kv_heads, rows, self.prefix),
            "own_query": shape(kv_heads, shared, self.groups, self.longest, head_dim),
            "own_key": shape(kv_heads, 1, self.groups, self.longest, head_dim),
            "own_scores": shape(heads, -1, self.longest),
            "own_shares": shape(kv_heads, shared, self.groups, self.longest, self.longest),
            "mixed": self.number(f"mixed.{heads}.{head_dim}", [heads, -1, head_dim]),
            "out": self.number(f"out.{heads}.{head_dim}", [1, heads, -1, head_dim]),
            "cut": shape(self.prefix, self.longest),
        }
        return self._sizes[key]


def _split(graph: ir.Graph, one: _Attention, layout: _Layout) -> None:
    sizes, axis = layout.sizes(one), layout.number("axis", [0])
    scale = one.node.attributes.get_float("scale", one.head_dim**-0.5)
    nodes: list[ir.Node] = []

    def add(op: str, *inputs: ir.Value, domain: str = "", outputs: int = 1, **attributes: int | float) -> ir.Value:
        nodes.append(ir.node(op, inputs, attributes, domain=domain, num_outputs=outputs))
        return nodes[-1].outputs[0]

    def scores(query: ir.Value, key: ir.Value) -> ir.Value:
        return add("FusedMatMul", query, key, domain=MICROSOFT, transB=1, alpha=scale)

    past_key, past_value = add("Squeeze", one.past_key, axis), add("Squeeze", one.past_value, axis)
    # No -1 here: nobody could tell it where P is 0.
    far = add("Reshape", scores(add("Reshape", one.query, sizes["query"]), past_key), sizes["scores"], allowzero=1)

    query = add("Reshape", add("Gather", one.query, layout.gather, axis=2), sizes["own_query"])
    key = add("Reshape", add("Gather", one.key, layout.gather, axis=2), sizes["own_key"])
    value = add("Reshape", add("Gather", one.value, layout.gather, axis=2), sizes["own_key"])
    masked = add("Reshape", add("Add", scores(query, key), layout.mask), sizes["own_scores"])
    near = add("Gather", masked, layout.back, axis=1)

    shares = add("Softmax", add("Concat", far, near, axis=2), axis=-1)
    far_shares = add("Split", shares, sizes["cut"], axis=2, outputs=2)
    near_shares = nodes[-1].outputs[1]

    far_mixed = add("MatMul", add("Reshape", far_shares, sizes["shares"], allowzero=1), past_value)
    own = add("Reshape", add("Gather", near_shares, layout.gather, axis=1), sizes["own_shares"])
    near_mixed = add("Gather", add("Reshape", add("MatMul", own, value), sizes["mixed"]), layout.back, axis=1)
    out = add("Reshape", add("Add", add("Reshape", far_mixed, sizes["mixed"]), near_mixed), sizes["out"])

    whole = ir.node("Attention", [one.query, one.key, one.value], {"scale": scale, "is_causal": 1})
    branches = {
        "then_branch": ir.Graph([], whole.outputs, nodes=[whole], name="alone"),
        "else_branch": ir.Graph([], [out], nodes=nodes, name="behind_a_prefix"),
    }
    for value in (whole.outputs[0], out):
        value.shape, value.type = one.node.outputs[0].shape, one.node.outputs[0].type
    assert layout.alone is not None
    choice = ir.node("If", [layout.alone], {name: ir.AttrGraph(name, branch) for name, branch in branches.items()})
    replace(graph, one.node, [choice])
