"""The tensorrt and cuda variants as a whole, and what is refused without touching what is there."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from rexit.format.bundle import Bundle
from running.exporting import Export

PRECISIONS = {"fp16": (18, 0.999), "int8": (19, 0.995), "int4": (21, None)}


@pytest.mark.medium
@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_the_manifest_says_is_what_the_graphs_have(tensorrt_exported: Path, precision: str) -> None:
    opset, correlation = PRECISIONS[precision]
    opened = Bundle.open(tensorrt_exported, f"tensorrt-{precision}")
    variant = opened.variant
    assert opened.edited() == []
    assert (variant.target, variant.backend, variant.opset) == ("tensorrt", "tensorrt", opset)
    assert variant.quality is not None and variant.quality["gate"]["correlation"] == correlation
    assert min(row["correlation"] for row in variant.quality["exits"]) > 0.85  # eight pairs
    for segment in variant.segments:
        model = onnx.load(opened.folder / segment.graph)
        onnx.checker.check_model(model, full_check=True)
        assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]
        types = {value.name: value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}
        assert types.pop("logits") == onnx.TensorProto.FLOAT
        assert {segment.hidden_dtype, segment.cache_dtype} == {"float16"}
        assert {types.pop(name) for name in ("positions", "groups", "rows")} == {onnx.TensorProto.INT64}
        types.pop("tokens", None)
        assert set(types.values()) == {onnx.TensorProto.FLOAT16}


@pytest.mark.medium
def test_linear_layers_are_quantized_and_nothing_else(tensorrt_exported: Path) -> None:
    for precision, quantizations in (("int8", 4), ("int4", 0)):
        for k, layers in enumerate((1, 1, 2)):
            model = onnx.load(tensorrt_exported / "variants" / f"tensorrt-{precision}" / f"segment-{k}.onnx")
            made_by = {name: node for node in model.graph.node for name in node.output}
            quantized = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
            assert len(quantized) == quantizations * layers
            products = [node for node in model.graph.node if node.op_type == "MatMul"]
            by_weight = [node for node in products if made_by.get(node.input[1], node).op_type == "DequantizeLinear"]
            assert len(by_weight) == 7 * layers and len(products) == 9 * layers + 1  # and attention's own two, and the head's


@pytest.mark.medium
def test_int8_is_smoothed_behind_norms_and_products(tensorrt_exported: Path) -> None:
    model = onnx.load(tensorrt_exported / "variants" / "tensorrt-int8" / "segment-0.onnx")
    smoothed = [entry.name for entry in model.graph.initializer if ".smoothed" in entry.name]
    assert any("norm" in name for name in smoothed) and any("up_proj" in name for name in smoothed)


def test_cuda(export: Export, bundle: Path) -> None:
    export(bundle, target="cuda", precisions=["fp16"], golden_slates=2, accept_loss=True)
    opened = Bundle.open(bundle, "cuda-fp16")
    assert opened.manifest.variants == ("cpu-fp32", "cuda-fp16")
    assert (opened.variant.backend, opened.variant.opset) == ("onnxruntime", 23)
    quality = opened.variant.quality
    assert quality is not None and quality["gate"] == {"correlation": 0.999, "drop": 0.001}
    assert min(row["correlation"] for row in quality["exits"]) > 0.9995
    for segment in opened.variant.segments:
        model = onnx.load(opened.folder / segment.graph)
        onnx.checker.check_model(model, full_check=True)
        attention = [node for node in model.graph.node if node.op_type == "Attention"]
        assert attention and all(
            {a.name: a for a in node.attribute}["softmax_precision"].i == onnx.TensorProto.FLOAT for node in attention
        )
