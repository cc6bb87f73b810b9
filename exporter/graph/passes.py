"""Helpers of passes: constants, weights, finding and replacing nodes; and `tidy`, which cleans up an exported graph.

Nodes of rexit's own domain are calls of functions defined in the same model, so that the graph is plain ONNX.

1. ONNX Runtime inlines a function's body unless it has a kernel of the same domain and name.
2. rexit's runtime registers such kernels. The body specifies what a kernel computes.
3. A body has no initializers: constants are nodes, and equal constants are created once.

`tidy`

1. Merges common subexpressions: the fusion of rotary embeddings leaves a cosine and sine per use.
2. Removes identities and unread values, including the parts that `SegmentModule` cut off; stores equal constants once.
3. Drops metadata and doc strings: they hold stack traces with paths of the exporting machine.
4. Makes names unique; inputs and outputs keep theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

FLOAT, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16
MICROSOFT = "com.microsoft"
"""Domain of ONNX Runtime's own operators."""


def is_constant(value: ir.Value | None) -> bool:
    """Whether the value is known without running the graph."""
    return value is not None and value.const_value is not None


def is_weight(value: ir.Value) -> bool:
    """Whether the value is a constant float32 matrix."""
    tensor = value.const_value
    return tensor is not None and tensor.dtype == ir.DataType.FLOAT and len(tensor.shape) == 2


def array(value: ir.Value) -> NDArray[np.float32]:
    """The numbers of a constant."""
    assert value.const_value is not None
    numbers: NDArray[np.float32] = value.const_value.numpy()
    return numbers


def constant(graph: ir.Graph, name: str, numbers: NDArray[Any]) -> ir.Value:
    """Adds an initializer to the graph."""
    tensor = ir.tensor(numbers, name=name)
    value = ir.Value(name=name, shape=ir.Shape(numbers.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def replace(graph: ir.Graph, node: ir.Node, new: list[ir.Node]) -> None:
    """Replaces `node` by `new`; the last node's outputs take over the names, types and readers of the node's outputs."""
    outputs = new[-1].outputs
    for old, out in zip(node.outputs, outputs, strict=True):
        out.name, out.shape, out.type = old.name, old.shape, old.type
    graph.insert_before(node, new)
    ir.convenience.replace_all_uses_with(node.outputs, outputs, replace_graph_outputs=True)
    graph.remove(node, safe=True)


def is_node(node: ir.Node, op: str, domain: str = "") -> bool:
    """Whether the node has this operator."""
    return node.op_type == op and node.domain == domain


def producer(value: ir.Value | None, op: str, reads: int | None = None, domain: str = "") -> ir.Node | None:
    """The node that produces the value, if it has this operator and the value has `reads` readers and is no output of the graph
    (None: any)."""
    node = value.producer() if value is not None else None
    if value is None or node is None or not is_node(node, op, domain):
        return None
    return node if reads is None or (len(value.uses()) == reads and not value.is_graph_output()) else None


def is_filled(value: ir.Value | None, number: float) -> bool:
    """Whether the value is a constant with this number everywhere."""
    return is_constant(value) and bool(np.all(value.const_value.numpy() == number))  # type: ignore[union-attr]


def describe(value: ir.Value, name: str, like: ir.Value, dtype: ir.DataType | None = None) -> ir.Value:
    """Gives the value a name, and the shape and type of `like`; dtype: another type. Returns it."""
    assert like.dtype is not None
    value.name, value.shape = name, like.shape
    value.type = ir.TensorType(dtype or like.dtype)
    return value


def cast(value: ir.Value, dtype: ir.DataType, suffix: str) -> ir.Node:
    """A Cast, whose output has the value's name and a suffix."""
    node = ir.node("Cast", [value], {"to": dtype})
    describe(node.outputs[0], f"{value.name}.{suffix}", value, dtype)
    return node


def both_ways(node: ir.Node | None) -> Iterator[tuple[ir.Value, ir.Value]]:
    """Yields a commutative node's two inputs in both orders."""
    if node is not None:
        first, second = node.inputs
        if first is not None and second is not None:
            yield first, second
            yield second, first


def take_over(graph: ir.Graph, node: ir.Node, values: Sequence[ir.Value]) -> None:
    """Makes a new node's outputs replace these values, with their names, shapes and types, where the first is computed."""
    first = values[0].producer()
    assert first is not None
    for old, out in zip(values, node.outputs, strict=True):
        out.name, out.shape, out.type = old.name, old.shape, old.type
        ir.convenience.replace_all_uses_with(old, out, replace_graph_outputs=True)
    graph.insert_before(first, node)


def is_bias(value: ir.Value, product: ir.Value) -> bool:
    """Whether the value is a constant with a number for each of the product's columns."""
    return is_constant(value) and product.shape is not None and list(value.shape or ()) == list(product.shape[-1:])


def same_shape(a: ir.Value, b: ir.Value) -> bool:
    """Whether both shapes are known and equal."""
    if a.shape is None or b.shape is None or a.shape != b.shape:
        return False
    return all(isinstance(size, int) or size.value is not None for size in a.shape)


DOMAIN, VERSION = "rexit", 1
APPROXIMATE = "approximate"
"""GELU's attribute, as of the operator Gelu: none or tanh."""


class Body:
    """The nodes of a function or of a branch, in order of addition."""

    def __init__(self) -> None:
        self.nodes: list[ir.Node] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}

    def node(
        self, op: str, *inputs: ir.Value, domain: str = "", outputs: int = 1, **attributes: int | float | ir.Attr | ir.Graph
    ) -> ir.Node:
        self.nodes.append(ir.node(op, inputs, attributes, domain=domain, num_outputs=outputs))
        return self.nodes[-1]

    def add(self, op: str, *inputs: ir.Value, domain: str = "", **attributes: int | float | ir.Attr | ir.Graph) -> ir.Value:
        """Adds a node with one output and returns the output."""
        return self.node(op, *inputs, domain=domain, outputs=1, **attributes).outputs[0]

    def constant(self, numbers: object) -> ir.Value:
        array = np.array(numbers)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = self.add("Constant", value=ir.AttrTensor("value", ir.tensor(array)))
        return self._constants[key]


def parameters(*names: str) -> list[ir.Value]:
    """A function's inputs."""
    return [ir.Value(name=name) for name in names]


def argument(name: str, attribute: str, kind: ir.AttributeType = ir.AttributeType.FLOAT) -> ir.Attr:
    """Makes a body node's attribute `name` the call's `attribute` of this type."""
    return ir.RefAttr(name, attribute, kind)


def define(
    model: ir.Model,
    name: str,
    inputs: Sequence[ir.Value],
    body: Body,
    outputs: Sequence[ir.Value],
    attributes: Sequence[str] = (),
) -> None:
    """Adds a function to the model.

    Args:
        model: changed in place.
        name: the function's name in rexit's domain.
        inputs, outputs: the function's values.
        body: the function's nodes.
        attributes: names of what every call passes: floats, and GELU's string.
    """
    imports = {"": model.opset_imports[""], MICROSOFT: 1, DOMAIN: VERSION}
    graph = ir.Graph(inputs, outputs, nodes=body.nodes, opset_imports=imports, name=name)
    kinds = {
        attribute: ir.AttributeType.STRING if attribute == APPROXIMATE else ir.AttributeType.FLOAT for attribute in attributes
    }
    passed = [ir.Attr(attribute, kind, None) for attribute, kind in kinds.items()]
    function = ir.Function(DOMAIN, name, graph=graph, attributes=passed)
    model.functions[function.identifier()] = function
    model.opset_imports[DOMAIN] = VERSION


def define_called(model: ir.Model, definitions: Mapping[str, Callable[[ir.Model], None]]) -> None:
    """Adds the functions that nodes of the graph call, by name."""
    called = {node.op_type for node in model.graph if node.domain == DOMAIN}
    for name, definition in definitions.items():
        if name in called:
            definition(model)


def call(name: str, inputs: Sequence[ir.Value], outputs: int = 1, **attributes: float | str) -> ir.Node:
    """A node that calls a function of the model."""
    return ir.node(name, inputs, attributes, domain=DOMAIN, num_outputs=outputs)


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
