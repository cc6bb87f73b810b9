"""The builder's script: what it needs of a Python, and how it reads the compiler's log."""

from __future__ import annotations

import ast
import sys

import pytest

from rexit.exporter.engine.compile import SCRIPT
from rexit.exporter.engine.engine_builder import layer_kind

HALF = "{ Name: x, Dimensions: [1,-1,64], Strides: [64,64,1], StrideOrder: [2,1,0], Datatype: Half, Format: (Linear) Row major }"
OLDER = "{ Name: x, Location: Device, Dimensions: [-1,64], Format/Datatype: Half }"
INT8, FLOAT, INT4 = (HALF.replace("Half", name) for name in ("Int8", "Float", "Int4"))


def line(name: str, kind: str, *inputs: str, constants: str = "", output: str = HALF) -> str:
    listed = ", ".join(inputs)
    return f"Name: {name}, LayerType: {kind}, Inputs: [ {listed}], Constants: [{constants}], Outputs: [ {output}], TacticName: x"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (line("_gemm_mha_v2_myl0_8", "kgen", HALF, HALF, HALF), "gemm_mha_v2"),
        (line("node_linear_2+node_linear_1+node_linear_myl0_2", "gemm", HALF), "fp16 gemm"),
        (line("node_linear_3_myl0_13", "gemm", INT8, constants=f"{INT8}, {FLOAT}", output=FLOAT), "int8 gemm"),
        (line("node_MatMul_132_myl0_5", "gemm", FLOAT, FLOAT), "fp32 gemm"),
        (line("__myl_FcAdd_myl0_9", "runtime_fusion", HALF, HALF), "fp16 gemm"),
        (line("node_linear_3_myl0_13", "gemm", HALF, constants=f"{INT4}, {HALF}"), "int4 gemm"),
        (line("node_linear_3", "gemm", OLDER), "fp16 gemm"),
        (line("node_linear_3", "gemm", HALF.replace("Half", "FP8")), "fp8 gemm"),
        (line("__myl_ReplCastMulCastFc_myl0_16", "runtime_fusion", HALF, constants=INT4), "int4 gemm"),
        (line("__myl_CastMulCast_myl0_10", "kgen", constants=f"{HALF}, {INT4}"), "int4 dequantize"),
        (line("__myl_SiluMul_myl0_16", "kgen", HALF, HALF), None),
        (line("__mye29101_0_myl0_0", "shape_call"), None),
        (line("__myl_AddEtc_myl0_1", "runtime_fusion", HALF), None),
    ],
)
def test_layer_kind(text: str, kind: str | None) -> None:
    assert layer_kind(text) == kind


def test_runs_in_older_pythons_without_rexit() -> None:
    """JetPack 6 has TensorRT's binding in a Python 3.10 without rexit."""
    tree = ast.parse(SCRIPT.read_text(), feature_version=(3, 8))
    imported = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {name.name if isinstance(node, ast.Import) else node.module for node in imported for name in node.names}
    assert names <= {*sys.stdlib_module_names}
