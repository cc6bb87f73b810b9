"""What JetPack's parser does not know is refused by name."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from rexit.errors import CheckpointError
from rexit.exporter.graph.accelerators import allowed_operators


def _model(op: str, inputs: Sequence[str] = ("x",), dtype: int = TensorProto.FLOAT16, domain: str = "") -> ir.Model:
    entries = [helper.make_tensor_value_info(name, TensorProto.INT64 if name == "axes" else dtype, [2]) for name in inputs]
    out = helper.make_tensor_value_info("y", dtype, None)
    graph = helper.make_graph([helper.make_node(op, inputs, ["y"], "the_node", domain=domain)], "one", entries, [out])
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (_model("Einsum"), "node the_node: JetPack 6's TensorRT has no operator Einsum"),
        (_model("RMSNormalization"), "has no operator RMSNormalization"),
        (_model("MatMulNBits", domain="com.microsoft"), "has no operator com.microsoft.MatMulNBits"),
        (_model("Tanh", dtype=TensorProto.DOUBLE), r"has no Tanh of DOUBLE \(x\)"),
        (_model("Not", dtype=TensorProto.INT64), r"has no Not of INT64 \(x\)"),
        (_model("ReduceMean", ("x", "axes")), "needs constant axes in ReduceMean"),
    ],
)
def test_refused(model: ir.Model, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        allowed_operators(model)


def test_a_value_of_unknown_type_is_refused() -> None:
    """A pass that leaves a value without a type: the table cannot be applied."""
    model = _model("Tanh")
    model.graph.inputs[0].type = None
    with pytest.raises(CheckpointError, match=r"node the_node: JetPack 6's TensorRT has no Tanh of an unknown type \(x\)"):
        allowed_operators(model)
