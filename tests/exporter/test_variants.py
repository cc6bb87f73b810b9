"""Variants of lower precision as a whole: made from the float32 graphs, judged, and run by the C++ runtime."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import rexit
from builders.bundles.bundle_files import contents
from builders.policies import full_depth
from rexit.errors import ParityError
from rexit.exporter import preflight
from rexit.exporter.export import ExportReport, export_bundle
from rexit.exporter.gate import quality
from rexit.exporter.graph.chain import Chain
from rexit.exporter.graph.cpu.pack_weights import MULTIPLY, MULTIPLY_ADD, MULTIPLY_SWIGLU
from rexit.exporter.graph.targets import Gate, find_target
from rexit.exporter.options import ExportOptions
from rexit.format.bundle import Bundle
from running.command import Run
from running.exporting import Export

VARIANTS = ("cpu-fp32", "cpu-bf16", "cpu-int8", "cpu-int4")


@pytest.fixture(scope="module")
def exported_variants(
    checkpoint_folder: Path, catalog_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, ExportReport]:
    out = tmp_path_factory.mktemp("variants") / "bundle"
    # The tiny model is random: 4 bits may cost it more than they would cost a trained one.
    report = export_bundle(
        checkpoint_folder,
        catalog_folder,
        out,
        ExportOptions(precisions=["fp32", "bf16", "int8", "int4"], golden_slates=6, accept_loss=True),
    )
    return out, report


def _gated(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    monkeypatch.setattr(preflight, "find_target", lambda name, precision: replace(find_target(name, precision), **changes))


def test_one_command_makes_all_and_leaves_nothing_else(exported_variants: tuple[Path, ExportReport]) -> None:
    out, report = exported_variants
    assert Bundle.open(out).manifest.variants == VARIANTS == tuple(variant.name for variant in report.variants)
    assert sorted(path.name for path in out.iterdir()) == ["catalog", "manifest.json", "variants"]
    assert all(Bundle.open(out, name).edited() == [] for name in VARIANTS)
    json.dumps(report.to_json(), allow_nan=False)


def test_the_graphs_are_quantized_and_the_heads_are_not(exported_variants: tuple[Path, ExportReport]) -> None:
    int8 = {MULTIPLY: 3, MULTIPLY_ADD: 2, MULTIPLY_SWIGLU: 1}
    bfloat16 = {"MatMulBFloat16": 5, "MatMulAddBFloat16": 2}
    for name, sites in (("cpu-bf16", bfloat16), ("cpu-int8", int8), ("cpu-int4", {"MatMulNBits": 7})):
        for k, layers in enumerate((1, 1, 2)):
            path = exported_variants[0] / "variants" / name / f"segment-{k}.onnx"
            model = onnx.load(path)
            nodes = [node.op_type for node in model.graph.node]
            assert {op: nodes.count(op) for op in sites} == {op: count * layers for op, count in sites.items()}
            assert "MatMulIntegerToFloat" not in nodes
            # The last layer's queries are of the rows alone, so they are quantized apart from its keys and values.
            quantized = 4 * layers + (k == 2) if name == "cpu-int8" else 0
            assert sum(node.op_type.endswith("QuantizeRows") for node in model.graph.node) == quantized
            floats = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT and len(t.dims) == 2]
            assert [list(t.dims) for t in floats if "scale" not in t.name] == [[2, 64]]


def test_cached_keys_and_values_take_half_the_memory(exported_variants: tuple[Path, ExportReport]) -> None:
    out, _ = exported_variants
    sizes = {}
    for name in VARIANTS:
        bundle = Bundle.open(out, name)
        assert {(segment.hidden_dtype, segment.cache_dtype) for segment in bundle.variant.segments} == {
            ("float32", "float32" if name == "cpu-fp32" else "float16")
        }
        slate, model = bundle.golden().slates[0], bundle.manifest.model
        with rexit.open(out, name) as session:
            items = [bundle.catalog.items.id(int(row)) for row in slate.items]
            session.trace(bundle.catalog.users.id(slate.user), items, as_of=slate.as_of)
            sizes[name] = session.memory.prefixes
        numbers = 2 * model.layers * model.kv_heads * model.head_dim * len(slate.prefix)
    assert sizes["cpu-bf16"] == sizes["cpu-int8"] == sizes["cpu-int4"]
    # Hidden states and the ends of blocks are the same.
    assert sizes["cpu-fp32"] - sizes["cpu-int8"] == pytest.approx(2 * numbers, rel=0.05)


@pytest.mark.parametrize("name", VARIANTS[1:])
def test_a_cached_prefix_gives_the_same_bits(exported_variants: tuple[Path, ExportReport], name: str) -> None:
    bundle = Bundle.open(exported_variants[0], name)
    with rexit.open(exported_variants[0], name) as session:
        for slate in bundle.golden().slates:
            user = bundle.catalog.users.id(slate.user)
            items = [bundle.catalog.items.id(int(row)) for row in slate.items]
            session.clear_cache()
            cold = session.trace(user, items, as_of=slate.as_of)
            np.testing.assert_array_equal(session.trace(user, items, as_of=slate.as_of), cold)


def test_a_copied_start_gives_the_same_bits(exported_variants: tuple[Path, ExportReport]) -> None:
    """int8, behind histories that end in another item than the one before: as behind each of them computed whole."""
    items = [Bundle.open(exported_variants[0]).catalog.items.id(row) for row in range(12)]
    with rexit.open(exported_variants[0], "cpu-int8") as session, rexit.open(exported_variants[0], "cpu-int8") as cold:
        for n, last in enumerate(items[2:]):
            recent = [*items[:2], last]
            actual = session.trace_with_stats(-5, items, recent=recent)
            assert (actual.stats.prefix_tokens_reused > actual.stats.prefix_tokens / 2) == (n > 0)
            cold.clear_cache()
            np.testing.assert_array_equal(actual.log_odds, cold.trace(-5, items, recent=recent))


def test_quality_is_measured_and_recorded(exported_variants: tuple[Path, ExportReport]) -> None:
    out, report = exported_variants
    for name, (correlation, drop) in {"cpu-bf16": (0.999, 0.001), "cpu-int8": (0.995, 0.001), "cpu-int4": (None, 0.005)}.items():
        variant = Bundle.open(out, name).variant
        assert variant.quality is not None
        assert variant.quality["gate"] == {"correlation": correlation, "drop": drop}
        assert [row["layers"] for row in variant.quality["exits"]] == [1, 2, 4]
        assert (variant.quality["slates"], variant.quality["users"], variant.quality["pairs"]) == (4, 4, 8), "of those who choose"
        assert variant.quality["split"] == "validation"
        assert min(row["correlation"] for row in variant.quality["exits"]) > 0.95
        assert variant.parity["reference"] == "variant"
    exact = Bundle.open(out, "cpu-fp32").variant
    assert exact.quality is None and exact.parity["reference"] == "pytorch" and report.variants[0].quality is None
    assert report.variants[1].quality is not None
    assert min(row["correlation"] for row in report.variants[1].quality["exits"]) > 0.998


@pytest.mark.parametrize("name", VARIANTS[1:])
def test_the_runtime_computes_what_python_computes(exported_variants: tuple[Path, ExportReport], name: str) -> None:
    bundle = Bundle.open(exported_variants[0], name)
    golden = bundle.golden()
    chain, judged = (
        Chain(bundle.folder, bundle.variant.segments, bundle.variant.max_tokens, kernels=kernels) for kernels in (False, True)
    )
    with rexit.open(exported_variants[0], name) as session:
        for slate in golden.slates:
            np.testing.assert_array_equal(slate.log_odds, chain.slate(slate.prefix, slate.candidates))
            items = [bundle.catalog.items.id(int(row)) for row in slate.items]
            session.clear_cache()  # behind keys copied from another prefix int8 rounds another way now and then
            actual = session.trace(bundle.catalog.users.id(slate.user), items, as_of=slate.as_of)
            # Its kernels add up in another order than the operators Python runs, so a value may be rounded to its neighbour.
            np.testing.assert_allclose(actual, slate.log_odds, atol=bundle.variant.parity["tolerance"])
            np.testing.assert_array_equal(actual, judged.slate(slate.prefix, slate.candidates), "what the gate judges")


def test_a_lower_precision_alone(export: Export, exported_variants: tuple[Path, ExportReport], tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    export(precisions=["int8"], golden_slates=6, accept_loss=True)
    assert Bundle.open(out).manifest.variants == ("cpu-int8",)
    assert sorted(path.name for path in out.iterdir()) == ["catalog", "manifest.json", "variants"]
    assert contents(out / "variants" / "cpu-int8") == contents(exported_variants[0] / "variants" / "cpu-int8")


def test_a_replaced_variant_keeps_its_policy_if_it_is_what_it_was_and_else_says_what_is_gone(
    run_export: Run, bundle: Path
) -> None:
    folder = bundle / "variants" / "cpu-fp32"
    full_depth(3, Bundle.open(bundle).variant_sha256).write(folder / "policy.json")
    (folder / "engines").mkdir()
    (folder / "engines" / "plan").write_bytes(b"engine")
    before = contents(folder)
    same = run_export("--out", bundle, "--golden", 6)
    assert same.code == 0 and "with it went" not in same.out and contents(folder) == before
    changed = run_export("--out", bundle, "--golden", 1)
    assert changed.code == 0 and Bundle.open(bundle).policy() is None
    assert "cpu-fp32: replaced, and with it went engines, policy.json; `rexit calibrate --variant cpu-fp32`" in changed.out


def test_what_passes_is_written_beside_what_is_refused(run_export: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute's work on float32 is not lost because the slates are too few to judge another precision by."""
    _gated(monkeypatch, gate=Gate(correlation=0.9999999, drop=1.0))
    monkeypatch.setattr(quality, "MIN_USERS", 1)
    out = tmp_path / "bundle"
    refused = run_export("--golden", 1, "--precision", "fp32,int4", "--json")
    message = f"rexit: error: {out}: cpu-fp32 written; cpu-int4 refused: exit after layer 1: log-odds correlate "
    assert refused.code == 5 and refused.err.startswith(message)
    report = refused.json
    assert [variant["name"] for variant in report["variants"]] == ["cpu-fp32"] and list(report["refused"]) == ["cpu-int4"]
    assert Bundle.open(out).manifest.variants == ("cpu-fp32",) and Bundle.open(out).edited() == []
    assert sorted(path.name for path in (out / "variants").iterdir()) == ["cpu-fp32"]


def _off_behind_a_prefix(monkeypatch: pytest.MonkeyPatch, by: float) -> None:
    """Planted: behind a cached prefix the int8 variant's log-odds are off, all of them alike, so that it ranks as before."""
    opened, run, wrong = Chain.__init__, Chain.run, set()

    def remember(self: Chain, folder: Path, *arguments: Any, **options: Any) -> None:
        opened(self, folder, *arguments, **options)
        wrong.update({self} if folder.name == "cpu-int8" else ())

    def off(self: Chain, *arguments: Any, past: Any = None, liked: Any = None) -> Any:
        log_odds, new = run(self, *arguments, past=past, liked=liked)
        return log_odds + np.float32(by * (past is not None and self in wrong)), new

    monkeypatch.setattr(Chain, "__init__", remember)
    monkeypatch.setattr(Chain, "run", off)


def test_a_cached_prefix_that_is_wrong_is_refused(export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _off_behind_a_prefix(monkeypatch, 2)
    message = r"exit after layer \d, single: log-odds differ from cpu-int8's own for the whole slate by 2, at most 1 is allowed"
    with pytest.raises(ParityError, match=message):
        export(precisions=["int8"], golden_slates=2, accept_loss=True)
    assert list(tmp_path.iterdir()) == []


def test_the_recorded_tolerance_is_never_above_the_cap(export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four times what was seen would be."""
    _off_behind_a_prefix(monkeypatch, 0.5)
    export(precisions=["int8"], golden_slates=2, accept_loss=True)
    recorded = Bundle.open(tmp_path / "bundle", "cpu-int8").variant.parity
    assert max(row["single"] for row in recorded["exits"]) > 0.4 and recorded["tolerance"] == 1


def test_command_shows_the_gate(run_export: Run, run: Run, tmp_path: Path) -> None:
    ended = run_export("--precision", "fp32,int8", "--golden", 1, "--accept-loss")
    assert ended.code == 0, ended.err
    printed = ended.out + ended.err
    assert all(text in printed for text in ("0-1", "2-4", "Variant cpu-fp32", "Variant cpu-int8 against float32"))
    assert "8 validation pairs in 4 slates of 4 users" in printed and "undecided" in printed.lower()
    assert ended.out.startswith("This model is not shown to rank: "), "it is a random one"
    assert run("inspect", tmp_path / "bundle").code == 0
