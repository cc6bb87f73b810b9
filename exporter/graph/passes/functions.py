"""Nodes of rexit's own domain: calls of functions defined in the same model, so that the graph is plain ONNX.

1. ONNX Runtime inlines a function's body unless it has a kernel of the same domain and name.
2. rexit's runtime registers such kernels. The body specifies what a kernel computes.
3. A body has no initializers: constants are nodes, and equal constants are created once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from rexit.exporter.graph.passes.nodes import MICROSOFT

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
