"""Gathers the rows that a head reads as early as possible, so that later nodes compute only these.

If a value has no reader but the gather of `rows`, as in the last segment, its inputs can be gathered instead. Going up from
there, a node is narrowed to the N rows if

1. all its readers are narrowed, and it is no output of the graph;
2. each of its tokens depends on the same token of its inputs (norms, products with constants, activations, sums, rotary
   embeddings, transposes and reshapes), and otherwise only on whole inputs (the keys and values of an attention).

Values that narrowed nodes read from other nodes are gathered: in a decoder's last layer the residual stream, the normed input of
the queries, the mask and the rotary tables. Keys and values stay whole. If no node can be narrowed, the graph does not change.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from rexit.exporter.graph.passes import constant, is_constant

ROWS = "rows"
"""The input that lists the tokens a head reads, int64 [N]."""

_ELEMENTWISE = frozenset(
    (
        *("Add", "Sub", "Mul", "Div", "Pow", "Neg", "Abs", "Sqrt", "Reciprocal", "Exp", "Erf", "Tanh", "Sigmoid", "Relu"),
        *("Gelu", "Softplus", "Elu", "LeakyRelu", "HardSwish", "Swish", "Cast", "Identity", "Where", "Clip", "Min", "Max"),
        *("Cos", "Sin"),
    )
)
_NORMS = frozenset(("LayerNormalization", "RMSNormalization", "Softmax"))
_ALONG_AXES = frozenset(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceSumSquare", "ReduceL2"))

_Axes = list[int | None]
"""The axis of the tokens, by input of a node; None: the input is read whole."""


def gather_rows_early(model: ir.Model) -> ir.Model:
    """Changes the model in place and returns it."""
    graph = model.graph
    rows = next((value for value in graph.inputs if value.name == ROWS), None)
    if rows is None:
        return model
    for index in (rows, *_first_tokens(rows)):
        for gather in _row_gathers(index):
            narrowed = _narrowed(gather)
            if narrowed:
                _narrow(graph, gather, narrowed, index)
    return model


def _first_tokens(rows: ir.Value) -> list[ir.Value]:
    """The rows that an encoder's head reads: `rows` less a number each."""
    return [use.node.outputs[0] for use in rows.uses() if use.node.op_type == "Sub" and use.idx == 0]


def _row_gathers(rows: ir.Value) -> list[ir.Node]:
    """Nodes that gather the rows: Gather along axis 0, or GatherND with the rows as a column."""
    gathers = []
    for use in rows.uses():
        if use.node.op_type == "Gather" and use.idx == 1 and use.node.attributes.get_int("axis", 0) == 0:
            gathers.append(use.node)
        elif use.node.op_type == "Unsqueeze" and _numbers(use.node.inputs[1]) in ([-1], [1]):
            gathers += [
                reader
                for reader, index in use.node.outputs[0].uses()
                if reader.op_type == "GatherND" and index == 1 and reader.attributes.get_int("batch_dims", 0) == 0
            ]
    return [node for node in gathers if node.inputs[0] is not None and not is_constant(node.inputs[0])]


def _narrowed(gather: ir.Node) -> dict[ir.Node, tuple[int, _Axes]]:
    """The nodes to narrow, with the axis of the tokens in their outputs and inputs."""
    source = gather.inputs[0]
    assert source is not None and gather.graph is not None
    axes: dict[ir.Value, int] = {source: 0}
    narrowed: dict[ir.Node, tuple[int, _Axes]] = {}
    for node in reversed(list(gather.graph)):
        token_axes = {axes[out] for out in node.outputs if out in axes}
        if len(token_axes) != 1 or not all(_only_rows_read(out, narrowed, gather) for out in node.outputs):
            continue
        axis = token_axes.pop()
        inputs = _input_axes(node, axis)
        # A value that is read along two axes is no sequence of tokens.
        if inputs is None or any(
            axes.get(value, at) != at
            for value, at in zip(node.inputs, inputs, strict=True)
            if value is not None and at is not None
        ):
            continue
        narrowed[node] = (axis, inputs)
        axes |= {value: at for value, at in zip(node.inputs, inputs, strict=True) if value is not None and at is not None}
    return narrowed


def _only_rows_read(value: ir.Value, narrowed: dict[ir.Node, tuple[int, _Axes]], gather: ir.Node) -> bool:
    """Whether all readers of the value read its rows alone."""
    if value.is_graph_output():
        return False
    return all(
        (use.node is gather and use.idx == 0) or (use.node in narrowed and narrowed[use.node][1][use.idx] is not None)
        for use in value.uses()
    )


def _narrow(graph: ir.Graph, gather: ir.Node, narrowed: dict[ir.Node, tuple[int, _Axes]], rows: ir.Value) -> None:
    count = rows.shape[0] if rows.shape is not None else None
    gathered: dict[tuple[ir.Value, int], ir.Value] = {}
    for node in [node for node in graph if node in narrowed]:
        axis, inputs = narrowed[node]
        for n, (value, at) in enumerate(zip(node.inputs, inputs, strict=True)):
            if value is None or at is None or value.producer() in narrowed:
                continue
            if (value, at) not in gathered:
                first = ir.node("Gather", [value, rows], {"axis": at})
                _shape_like(first.outputs[0], value, at, count)
                graph.insert_before(node, first)
                gathered[value, at] = first.outputs[0]
            node.replace_input_with(n, gathered[value, at])
        if node.op_type == "Reshape":
            out = node.outputs[0].shape
            assert out is not None
            sizes = [-1 if n == axis else size for n, size in enumerate(out) if n == axis or isinstance(size, int)]
            node.replace_input_with(1, constant(graph, f"{node.outputs[0].name}.sizes", np.array(sizes, np.int64)))
        for value in node.outputs:
            _shape_like(value, value, axis, count)
    source = gather.inputs[0]
    assert source is not None
    ir.convenience.replace_all_uses_with(gather.outputs[0], source, replace_graph_outputs=True)
    graph.remove(gather, safe=True)


def _shape_like(value: ir.Value, like: ir.Value, axis: int, count: ir.SymbolicDim | int | None) -> None:
    value.type = like.type
    if like.shape is not None:
        value.shape = ir.Shape([count if n == axis else size for n, size in enumerate(like.shape)])


def _input_axes(node: ir.Node, axis: int) -> _Axes | None:
    """The token axes of a node's inputs, given the token axis of its output. None: tokens may depend on each other."""
    if node.domain != "" or not node.outputs or node.outputs[0].shape is None:
        return None
    first = node.inputs[0] if node.inputs else None
    if first is None or first.shape is None:
        return None
    rank, op = len(node.outputs[0].shape), node.op_type
    rest: _Axes = [None] * (len(node.inputs) - 1)
    if op in _ELEMENTWISE:
        return _broadcast(node, rank - axis)
    if op in _NORMS:
        over = node.attributes.get_int("axis", -1) % rank
        return [axis, *rest] if (axis != over if op == "Softmax" else axis < over) else None
    if op in _ALONG_AXES:
        over_axes = _numbers(node.inputs[1]) if len(node.inputs) > 1 else None
        keeps_axes = node.attributes.get_int("keepdims", 1) == 1
        return [axis, *rest] if keeps_axes and over_axes and axis not in [n % rank for n in over_axes] else None
    if op in ("MatMul", "Gemm"):
        return _product(node, axis, rank)
    if op == "Transpose":
        permutation = node.attributes.get_ints("perm", list(range(rank))[::-1])
        return [permutation[axis]]
    if op == "Reshape":
        at = _reshaped(first.shape, node.outputs[0].shape, axis)
        return None if at is None else [at, None]
    if op in ("Squeeze", "Unsqueeze"):
        moved = _numbers(node.inputs[1]) if len(node.inputs) > 1 else None
        if moved is None:
            return None
        if op == "Unsqueeze":
            new = {n % rank for n in moved}
            return None if axis in new else [axis - sum(n < axis for n in new), None]
        squeezed = {n % len(first.shape) for n in moved}
        return [[n for n in range(len(first.shape)) if n not in squeezed][axis], None]
    if op == "Gather":
        along = node.attributes.get_int("axis", 0) % len(first.shape)
        picked = node.inputs[1]
        if picked is None or picked.const_value is None:
            return None
        width = len(picked.const_value.shape)
        if along <= axis < along + width:
            return None
        return [axis if axis < along else axis + 1 - width, None]
    if op == "Concat":
        return [axis] * len(node.inputs) if axis != node.attributes.get_int("axis", 0) % rank else None
    if op == "Split":
        return [axis, *rest] if axis != node.attributes.get_int("axis", 0) % rank else None
    if op == "Slice":
        cut = _numbers(node.inputs[3]) if len(node.inputs) > 3 else None
        return [axis, *rest] if cut is not None and axis not in [n % rank for n in cut] else None
    if op == "RotaryEmbedding":
        return _rotary(node, axis, rank)
    if op == "Attention":
        return _attention(node, axis)
    return None


def _broadcast(node: ir.Node, from_right: int) -> _Axes | None:
    axes: _Axes = []
    for value in node.inputs:
        if value is None:
            axes.append(None)
            continue
        if value.shape is None:
            return None
        at = len(value.shape) - from_right
        axes.append(None if at < 0 or value.shape[at] == 1 else at)
    return axes if any(at is not None for at in axes) else None


def _product(node: ir.Node, axis: int, rank: int) -> _Axes | None:
    """Rows of the left operand; the right operand is read whole."""
    if node.op_type == "Gemm":
        if axis != 0 or node.attributes.get_int("transA", 0) != 0:
            return None
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        if bias is not None and not is_constant(bias):
            return None
        return [0, *([None] * (len(node.inputs) - 1))]
    left, right = node.inputs
    if left is None or right is None or left.shape is None or right.shape is None:
        return None
    if axis != rank - 2 or len(left.shape) != rank or len(right.shape) < 2:
        return None
    return [axis, None]


def _reshaped(before: ir.Shape, after: ir.Shape, axis: int) -> int | None:
    """The axis of the only dynamic size before, if the sizes to its right hold as many elements before as after."""
    dynamic = [n for n, size in enumerate(before) if not isinstance(size, int)]
    if len(dynamic) != 1 or [n for n, size in enumerate(after) if not isinstance(size, int)] != [axis]:
        return None
    inner = [
        math.prod(size for size in shape[at + 1 :] if isinstance(size, int))
        for shape, at in ((before, dynamic[0]), (after, axis))
    ]
    return dynamic[0] if inner[0] == inner[1] and before[dynamic[0]] == after[axis] else None


def _rotary(node: ir.Node, axis: int, rank: int) -> _Axes | None:
    """x [B, heads, T, d] or [B, T, heads * d]; cosines and sines [B, T, d / 2], not looked up by position."""
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        return None
    tables = node.inputs[1:3]
    if axis != rank - 2 and not (rank == 3 and axis == 1):
        return None
    if any(table is None or (table.shape is not None and len(table.shape) != 3) for table in tables):
        return None
    return [axis, 1, 1, *([None] * (len(node.inputs) - 3))]


def _attention(node: ir.Node, axis: int) -> _Axes | None:
    """Queries [B, heads, T, d] and the mask's rows; keys and values whole. None if the operator builds the causal mask itself."""
    mask = node.inputs[3] if len(node.inputs) > 3 else None
    if axis != 2 or node.attributes.get_int("is_causal", 0) != 0 or len(node.inputs) > 4 or len(node.outputs) > 1:
        return None
    if mask is None:
        return [2, None, None]
    if mask.shape is None or len(mask.shape) < 2:
        return None
    at = len(mask.shape) - 2
    return [2, None, None, None if mask.shape[at] == 1 else at]


def _numbers(value: ir.Value | None) -> list[int] | None:
    """The elements of a constant."""
    if value is None or value.const_value is None:
        return None
    return [int(n) for n in value.const_value.numpy().reshape(-1)]
