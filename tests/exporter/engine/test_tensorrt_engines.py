"""TensorRT's own compiler takes the graphs and does with them what they were made for. Compiled, not run: there is no GPU."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import msgspec
import pytest

from builders.data.token_slates import write_slates
from builders.models.checkpoints import tiny_checkpoint
from builders.models.encoders import FAMILIES, pairs, write_encoder
from rexit.exporter.engine.compile import compile_engines, optimization_profiles
from rexit.exporter.export import export_bundle
from rexit.exporter.options import ExportOptions
from rexit.format.bundle import Bundle, Catalog, Engine
from rexit.format.bundle.variant import Limits

PRECISIONS = ("fp16", "int8", "int4")
PRODUCTS = 4
"""Products of a decoder layer: queries, keys and values together; the attention's output; gate and up together; down."""

DEMO: dict[str, Any] = {  # a small model from scratch
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 4096,
    "max_position_embeddings": 1024,
}
SMOLLM2: dict[str, Any] = {  # one of six segments, which have thirty layers
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 5,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "vocab_size": 4096,
    "max_position_embeddings": 8192,
}


def compiled(bundle: Path, precision: str) -> list[dict[str, int]]:
    """What the compiler made of each segment, for the oldest GPU in wide use that has the precision."""
    report = compile_engines(bundle, [f"tensorrt-{precision}"], compute_capability="8.6")
    engine = Engine.read(Path(report.variants[0].folder))
    engine.check(Path(report.variants[0].folder), Bundle.open(bundle, f"tensorrt-{precision}").variant)
    return [segment.summary for segment in engine.segments]


def check(bundle: Path, precision: str, exits: tuple[int, ...]) -> None:
    """In each segment and for each profile, attention is fused in every layer, the decoder's products compute in their precision,
    and one product stays float32: the head."""
    profiles = len(optimization_profiles(Bundle.open(bundle, f"tensorrt-{precision}")))
    for begin, end, summary in zip((0, *exits), exits, compiled(bundle, precision), strict=False):
        layers = (end - begin) * profiles
        assert sum(count for kind, count in summary.items() if "mha" in kind) == layers, summary
        assert summary["fp32 gemm"] == profiles, summary
        products = {kind: count for kind, count in summary.items() if kind.endswith(" gemm") and kind != "fp32 gemm"}
        assert sum(products.values()) == PRODUCTS * layers, summary
        if precision == "int4":
            # Weights are unpacked in the product or before it; then the product is half.
            unpacked = summary.get("int4 gemm", 0) + summary.get("int4 dequantize", 0)
            assert set(products) <= {"int4 gemm", "fp16 gemm"} and unpacked == PRODUCTS * layers, summary
        else:
            assert set(products) == {f"{precision} gemm"}, summary


@pytest.mark.slow
@pytest.mark.parametrize(("family", "precision"), [(family, name) for family in FAMILIES for name in PRECISIONS])
def test_an_encoder(family: str, precision: str, tmp_path: Path) -> None:
    """There are no prefixes, so there is one profile; what the classifier computes before its projection is no head's product."""
    slates = write_slates(tmp_path / "slates.jsonl", pairs(200))
    checkpoint = write_encoder(tmp_path / "model", family, hidden_size=64, num_hidden_layers=2, embedding_size=64)
    options = ExportOptions(target="tensorrt", precisions=[precision], golden_slates=2, quality_slates=10, accept_loss=True)
    export_bundle(checkpoint, None, tmp_path / "bundle", options, slates=slates)
    (summary,) = compiled(tmp_path / "bundle", precision)
    bundle = Bundle.open(tmp_path / "bundle", f"tensorrt-{precision}")
    most = bundle.variant.max_positions
    narrow = dataclasses.replace(bundle, variant=msgspec.structs.replace(bundle.variant, limits=Limits(most // 2, most)))
    (profile,) = optimization_profiles(narrow)
    assert profile.tokens[2] == most, "a text longer than `max_tokens` is a pass of its own"
    assert sum(count for kind, count in summary.items() if "mha" in kind) == 2, summary
    assert summary["fp32 gemm"] in (1, 2), summary


@pytest.mark.slow
@pytest.mark.parametrize(("exits", "shape"), [((2, 4, 6), DEMO), ((5,), SMOLLM2)], ids=["demo", "smollm2"])
def test_models_of_real_shapes(catalog_folder: Path, tmp_path: Path, exits: tuple[int, ...], shape: dict[str, Any]) -> None:
    """Random weights."""
    checkpoint = tiny_checkpoint(tmp_path / "checkpoint", exits, catalog=Catalog.open(catalog_folder), **shape)
    options = ExportOptions(target="tensorrt", precisions=PRECISIONS, golden_slates=2, quality_slates=10, accept_loss=True)
    export_bundle(checkpoint, catalog_folder, tmp_path / "bundle", options)
    for precision in PRECISIONS:
        check(tmp_path / "bundle", precision, exits)
