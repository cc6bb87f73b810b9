"""Converts a float32 graph to float16 (half), with float32 where half is too coarse. Every change of type is an explicit Cast: a
strongly typed TensorRT network rejects operators whose inputs have two float types.

Nodes that stay float32 are found by operator, not by name, so that every family works:

1. Norms: means, squares and roots, and the elementwise nodes behind them, up to the product with the norm's weight. A mean of
   squares can exceed half's 65504.
2. Attention's softmax, and the scale, soft-cap and mask before it, back to the product of queries and keys. A single Attention
   operator takes halves and computes its softmax in float32.
3. Positions: the angles of rotary embeddings, up to their sines and cosines, and counts of tokens. Half cannot represent odd
   numbers beyond 2048.
4. The head: from the rows it reads, or their mean, to `logits`.

Everything else is half: weights, hidden states, keys, values. The input `vectors` is float32, as the runtime fills it for all
variants alike, and is cast where it is read. Inputs and outputs keep their names. A weight beyond half's range is refused; the
mask's float32 minimum becomes half's minimum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from rexit.errors import CheckpointError
from rexit.exporter.graph.linear.linear import HEADS
from rexit.exporter.graph.passes import FLOAT, HALF, array, cast, constant, is_constant, producer

VECTORS = "vectors"

_NORMS = frozenset({"LayerNormalization", "RMSNormalization"})
_PARTS_OF_NORMS = frozenset({"Pow", "ReduceL2", "ReduceMean", "ReduceSum", "Reciprocal", "Sqrt"})
_POSITIONS = frozenset({"Cos", "CumSum", "Sin"})
_ELEMENTWISE = frozenset({"Abs", "Add", "Clip", "Div", "Max", "Min", "Mul", "Neg", "Sub", "Tanh", "Where"}) | _PARTS_OF_NORMS


def half(model: ir.Model) -> ir.Model:
    """Changes the model in place and returns it. Raises CheckpointError for a weight that half cannot hold."""
    model = common.ShapeInferencePass()(model).model  # fusions leave values without a type
    exact = stays_float32(model)
    casts = Casts(model.graph)
    for entry in model.graph.inputs:
        if entry.dtype == FLOAT and entry.name != VECTORS:
            entry.dtype = HALF
    for node in list(model.graph):
        for n, value in enumerate(node.inputs):
            if value is not None and value.dtype in (FLOAT, HALF):
                node.replace_input_with(n, casts.to(value, FLOAT if node in exact else HALF, node))
        for value in node.outputs:
            if value.dtype is None:
                raise CheckpointError(f"fp16: the type of {value.name}, from {node.op_type} {node.name}, is unknown")
            if value.dtype == FLOAT and node not in exact:
                value.type = ir.TensorType(HALF)  # a new one: passes let values share a type
        if node.op_type == "Attention":
            node.attributes["softmax_precision"] = ir.AttrInt64("softmax_precision", FLOAT)
        if node.op_type == "Cast" and node.attributes.get_int("to", 0) == FLOAT and node not in exact:
            node.attributes["to"] = ir.AttrInt64("to", HALF)
    for n, value in enumerate(model.graph.outputs):
        if value.dtype == FLOAT and value.name not in HEADS:
            casts.output(n, value)
    return model


def stays_float32(model: ir.Model) -> set[ir.Node]:
    """The nodes that the rules keep in float32, including some without a float input or output."""
    exact: set[ir.Node] = set()
    open_norms: set[ir.Node] = set()
    for node in model.graph:  # in topological order: producers first
        before = {value.producer() for value in node.inputs if value is not None}
        if node.op_type in _NORMS:
            exact.add(node)
        elif node.op_type in _PARTS_OF_NORMS or (node.op_type in _ELEMENTWISE and not open_norms.isdisjoint(before)):
            exact.add(node)
            if not (node.op_type == "Mul" and any(_is_vector(value) for value in node.inputs)):
                open_norms.add(node)
    softmax = (node for node in model.graph if node.op_type == "Softmax")
    positions = (node for node in model.graph if node.op_type in _POSITIONS)
    outputs = (value.producer() for value in model.graph.outputs if value.name in HEADS)
    return (
        exact
        | _back(softmax, lambda node: node.op_type in _ELEMENTWISE)
        | _back(positions, lambda _node: True)
        | _back((node for node in outputs if node is not None), lambda node: not _reads_rows(node))
    )


def _reads_rows(node: ir.Node) -> bool:
    """Whether the node takes a head's rows from all tokens, or their mean."""
    is_mean = node.op_type == "MatMul" and producer(node.inputs[0], "Div") is not None
    return is_mean or node.op_type in ("Gather", "GatherND")


def _back(start: Iterable[ir.Node], follow: Callable[[ir.Node], bool]) -> set[ir.Node]:
    """The nodes in `start` and their producers, as far back as `follow` allows."""
    pending = list(start)
    visited = set(pending)
    while pending:
        for value in pending.pop().inputs:
            node = value.producer() if value is not None else None
            if node is not None and node not in visited and follow(node):
                visited.add(node)
                pending.append(node)
    return visited


def _is_vector(value: ir.Value | None) -> bool:
    return value is not None and is_constant(value) and value.shape is not None and len(value.shape) == 1


class Casts:
    """Converts values: constants become new constants, other values get a Cast that all readers share."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._converted: dict[ir.Value, ir.Value] = {}

    def to(self, value: ir.Value, dtype: ir.DataType, reader: ir.Node) -> ir.Value:
        """`value` in `dtype`, computed before `reader`, the first node that needs it."""
        if value.dtype == dtype:
            return value
        if value not in self._converted:
            if is_constant(value):
                self._converted[value] = constant(self._graph, f"{value.name}.float16", halved(array(value), str(value.name)))
            else:
                node = cast(value, dtype, "float16" if dtype == HALF else "float32")
                self._graph.insert_before(reader, node)
                self._converted[value] = node.outputs[0]
        return self._converted[value]

    def output(self, n: int, value: ir.Value) -> None:
        """Converts the graph's output n to half, under the same name."""
        name = value.name
        value.name = f"{name}.float32"
        node = cast(value, HALF, "float16")
        node.outputs[0].name = name
        self._graph.append(node)
        self._graph.outputs[n] = node.outputs[0]


def halved(numbers: NDArray[np.float32], name: str) -> NDArray[np.float16]:
    """Rounds to half. Raises CheckpointError for a number beyond half's range, except float32's minimum, which masks use."""
    numbers = np.where(numbers == np.finfo(np.float32).min, np.float32(np.finfo(np.float16).min), numbers)
    with np.errstate(over="ignore"):
        out = numbers.astype(np.float16)
    if not np.isfinite(out).all():
        largest = np.abs(numbers).max()
        raise CheckpointError(f"fp16: {name} holds {largest:.6g}, float16 ends at {np.finfo(np.float16).max:.0f}")
    return out
