"""Every TensorRT precision really compiles with TensorRT-RTX: the demo's shape, one segment of SmolLM2's shape.

Compiled, not run: there is no GPU. engine.json says what the compiler did.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from builders.models.checkpoints import tiny_checkpoint
from rexit.bundle import Bundle, Catalog, Engine
from rexit.exporter.engine.compile import compile_engines
from rexit.exporter.export import export_bundle
from rexit.exporter.options import ExportOptions

CAPABILITY = "8.9"  # the first that has fp8
PRECISIONS = ("fp16", "int8", "int4", "fp8")
PRODUCTS = 4
"""Of one decoder layer: queries with keys and values, out, gate with up, down."""

DEMO: dict[str, Any] = {  # examples/movielens/train.py
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 4096,
    "max_position_embeddings": 1024,
}
SMOLLM2: dict[str, Any] = {  # one segment of the thirty layers' six
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 5,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "vocab_size": 4096,
    "max_position_embeddings": 8192,
}


def compiled(place: Path, catalog: Path, exits: tuple[int, ...], shape: dict[str, Any]) -> dict[str, Engine]:
    """The engines of all precisions, random weights."""
    checkpoint = tiny_checkpoint(place / "checkpoint", exits, catalog=Catalog.open(catalog), **shape)
    bundle = place / "bundle"
    export_bundle(
        checkpoint,
        catalog,
        bundle,
        ExportOptions(target="tensorrt", precisions=PRECISIONS, golden_slates=2, quality_slates=10, accept_loss=True),
    )
    report = compile_engines(bundle, compute_capability=CAPABILITY)
    kinds = {}
    for built in report.variants:
        engine = Engine.read(Path(built.folder))
        engine.check(Path(built.folder), Bundle.open(bundle, built.variant).variant)
        kinds[built.variant] = engine
    return kinds


def check(engines: dict[str, Engine], exits: tuple[int, ...]) -> None:
    """In each segment, and for each of its profiles, attention is fused in every layer, the products of the decoder compute in
    their precision, and one stays float32: the head."""
    assert list(engines) == [f"tensorrt-{precision}" for precision in PRECISIONS]
    depths = [end - begin for begin, end in zip((0, *exits), exits, strict=False)]
    for name, engine in engines.items():
        precision = name.removeprefix("tensorrt-")
        for layers, segment in zip(depths, engine.segments, strict=True):
            per_head, heads = layers * len(segment.profiles), len(segment.profiles)
            fused = {kind: count for kind, count in segment.summary.items() if "mha" in kind}
            assert sum(fused.values()) == per_head, (name, segment.summary)
            assert segment.summary["fp32 gemm"] == heads, (name, segment.summary)
            products = {kind: count for kind, count in segment.summary.items() if kind.endswith(" gemm") and kind != "fp32 gemm"}
            assert sum(products.values()) == PRODUCTS * per_head, (name, segment.summary)
            if precision == "int4":
                # Weights are unpacked in the product or before it, where the product is half then.
                unpacked = segment.summary.get("int4 gemm", 0) + segment.summary.get("int4 dequantize", 0)
                assert set(products) <= {"int4 gemm", "fp16 gemm"} and unpacked == PRODUCTS * per_head, (name, segment.summary)
            else:
                assert set(products) == {f"{precision} gemm"}, (name, segment.summary)


@pytest.mark.slow  # test_tensorrt_engines.py has the tiny model
@pytest.mark.parametrize(("exits", "shape"), [((2, 4, 6), DEMO), ((5,), SMOLLM2)], ids=["demo", "smollm2"])
def test_every_precision_compiles(catalog_folder: Path, tmp_path: Path, exits: tuple[int, ...], shape: dict[str, Any]) -> None:
    check(compiled(tmp_path, catalog_folder, exits, shape), exits)
