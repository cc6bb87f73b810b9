"""Every family through the whole export, the C++ runtime and TensorRT-RTX; docs/families.md says what these tests found.

Small random models. Compiled by TensorRT-RTX, not run: there is no GPU.
"""

from __future__ import annotations

import re
from pathlib import Path

import onnx
import pytest

import rexit
from builders.models.checkpoints import FAMILIES, MORE_FAMILIES, REFUSED_FAMILIES, tiny_checkpoint, tiny_model
from rexit.errors import CheckpointError
from rexit.exporter.engine.compile import compile_engines
from rexit.exporter.export import export_bundle
from rexit.exporter.options import ExportOptions
from rexit.format.bundle import Bundle, Catalog
from running.fast import fast

PAGE = Path(__file__).parents[2] / "docs" / "families.md"
CORRELATION = {
    **dict.fromkeys([*FAMILIES, *MORE_FAMILIES], 0.99),
    **dict.fromkeys(("glm4", "nemotron", "starcoder2"), 0.98),
    "phi": 0.97,
}
"""Lowest correlation of int8 with float32. Below the export's own gate, which is for trained models."""
ATTENTION = {"SlateAttention": "SlateAttention", "Attention": "ONNX Runtime's"}
PROFILES = 2
"""For a prefix, and behind one."""
WORKING = {**FAMILIES, **MORE_FAMILIES}
DEPTH = 2
ENGINES = ("fp16", "int8")


@pytest.mark.slow
@pytest.mark.parametrize("family", WORKING)
def test_a_family_works_as_the_page_says(family: str, catalog_folder: Path, tmp_path: Path) -> None:
    """float32 is what PyTorch computes: pairs alone, behind a cached prefix, and as slates; and so in the C++ library.
    int8 is close to it. TensorRT-RTX compiles those of `FAMILIES`."""
    # One exit where there is one: torch takes most of the time, once for each segment.
    exits = (1, DEPTH) if family in FAMILIES else (DEPTH,)
    checkpoint = tiny_checkpoint(tmp_path / "model", exits, family, Catalog.open(catalog_folder), num_hidden_layers=DEPTH)
    out = tmp_path / "bundle"
    # Random models: some lose more than a trained one may.
    options = ExportOptions(precisions=["fp32", "int8"], golden_slates=2, quality_slates=10, accept_loss=True)
    export_bundle(checkpoint, catalog_folder, out, options)
    exact, rounded = (Bundle.open(out, f"cpu-{precision}") for precision in ("fp32", "int8"))
    parity = exact.variant.parity["exits"]
    assert len(parity) == len(exits) and max(row[mode] for row in parity for mode in ("single", "cached", "slate")) <= 1e-4
    with rexit.open(out, variant="cpu-fp32") as session:
        for slate in range(len(exact.golden().slates)):
            check = session.check_golden(slate)
            assert check.worst <= 1e-4 and (check.prompt, check.decision) == ("", "")
    assert rounded.variant.quality is not None
    assert min(row["correlation"] for row in rounded.variant.quality["exits"]) >= CORRELATION[family]
    engines = check_engines(family, catalog_folder, tmp_path) if family in FAMILIES else "not tried"

    graphs = [onnx.load(exact.folder / segment.graph, load_external_data=False).graph for segment in exact.variant.segments]
    operators = {node.op_type for graph in graphs for node in graph.node}
    unrotated = exact.variant.unrotated
    cells = (
        WORKING[family],
        f"`{family}`",
        "yes" if unrotated is None else f"no: {unrotated.removeprefix(f'{family}: ')}",
        "<= 1e-4",
        f">= {CORRELATION[family]:g}",
        next((text for name, text in ATTENTION.items() if name in operators), "in parts"),
        engines,
    )
    row = f"| {' | '.join(cells)} |"
    assert row in PAGE.read_text().splitlines(), f"expected in docs/families.md:\n{row}"


def check_engines(family: str, catalog: Path, place: Path) -> str:
    """Products compute in the precision that the variant is named after, but for the head's. Returns what the page says."""
    # One segment: with each more, torch traces and TensorRT-RTX compiles once more.
    checkpoint = tiny_checkpoint(place / "whole", (DEPTH,), family, Catalog.open(catalog), num_hidden_layers=DEPTH)
    out = place / "engines"
    options = ExportOptions(target="tensorrt", precisions=ENGINES, golden_slates=1, quality_slates=4, accept_loss=True)
    export_bundle(checkpoint, catalog, out, options)
    report, fused = compile_engines(out, compute_capability="8.6"), []
    for precision, variant in zip(ENGINES, report.variants, strict=True):
        summary = variant.segments[0].summary
        assert summary["fp32 gemm"] == PROFILES and summary[f"{precision} gemm"] > 0, summary
        fused.append(sum(count for kind, count in summary.items() if "mha" in kind) == DEPTH * PROFILES)
    return "yes, attention fused" if all(fused) else "yes"


@pytest.mark.parametrize("page", ["README.md", "docs/how-to/own-model.md", "docs/develop.md"])
def test_pages_that_count_them_agree(page: str) -> None:
    counts = re.findall(r"(\d+) families\b|\b(\d+) are tested", (PAGE.parents[1] / page).read_text())
    assert counts and {int(families or tested) for families, tested in counts} == {len(WORKING)}


@pytest.mark.parametrize("family", fast(REFUSED_FAMILIES, "bloom", "mamba"))
def test_a_family_that_does_not_work_is_refused_by_name(family: str, catalog_folder: Path, tmp_path: Path) -> None:
    """In one line, which the page quotes; nothing is written."""
    tiny_model(family, attention=None).save_pretrained(tmp_path / "checkpoint")
    options = ExportOptions(exits=(4,), head="shared")
    with pytest.raises(CheckpointError) as caught:
        export_bundle(tmp_path / "checkpoint", catalog_folder, tmp_path / "bundle", options)
    message = str(caught.value)
    assert message.startswith(f"{family}: ") and "\n" not in message
    assert not (tmp_path / "bundle").exists()
    row = f"| {REFUSED_FAMILIES[family]} | `{family}` | {message.removeprefix(f'{family}: ')} |"
    assert row in PAGE.read_text().splitlines(), f"expected in docs/families.md:\n{row}"
