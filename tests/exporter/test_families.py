"""Every family through the whole export, the C++ runtime and TensorRT-RTX; docs/families.md says what these tests found.

Small random models. Compiled by TensorRT-RTX, not run: there is no GPU.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from builders.models.checkpoints import FAMILIES, MORE_FAMILIES, REFUSED_FAMILIES, tiny_model
from builders.models.families import DEPTH, ENGINES, Measured, measure
from rexit.errors import CheckpointError
from rexit.exporter.export import export_bundle
from rexit.exporter.options import ExportOptions
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
Measure = Callable[[str], Measured]


@pytest.fixture(scope="module")
def measured(catalog_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Measure:
    """By family, once each. Those of `FAMILIES` have two exits and go through TensorRT-RTX, too."""
    place = tmp_path_factory.mktemp("families")
    return cache(lambda family: measure(family, family in FAMILIES, catalog_folder, place))


@pytest.mark.parametrize("family", fast(WORKING, "llama"))
def test_float32_is_what_pytorch_computes(measured: Measure, family: str) -> None:
    """At every exit: pairs alone, behind a cached prefix, and as slates; and so in the C++ library."""
    measurement = measured(family)
    assert len(measurement.parity) == (DEPTH if family in FAMILIES else 1)
    assert max(value for row in measurement.parity for value in row.values()) <= 1e-4
    assert measurement.runtime <= 1e-4


@pytest.mark.parametrize("family", fast(WORKING, "llama"))
def test_int8_is_close_to_float32(measured: Measure, family: str) -> None:
    assert measured(family).correlation >= CORRELATION[family]


@pytest.mark.parametrize("family", fast(FAMILIES, "llama"))
@pytest.mark.parametrize("precision", ENGINES)
def test_tensorrt_compiles_it(measured: Measure, family: str, precision: str) -> None:
    """And its products compute in the precision that the variant is named after, but for the head's."""
    summary = measured(family).engines[precision]
    products = {kind: count for kind, count in summary.items() if kind.endswith(" gemm")}
    assert products.pop("fp32 gemm") == PROFILES, summary
    assert products[f"{precision} gemm"] > 0, summary


def _row(family: str, measurement: Measured) -> str:
    fused = all(
        sum(count for kind, count in summary.items() if "mha" in kind) == DEPTH * PROFILES
        for summary in measurement.engines.values()
    )
    cells = (
        WORKING[family],
        f"`{family}`",
        "yes" if measurement.unrotated is None else f"no: {measurement.unrotated.removeprefix(f'{family}: ')}",
        "<= 1e-4",
        f">= {CORRELATION[family]:g}",
        next((text for name, text in ATTENTION.items() if name in measurement.attention), "in parts"),
        "not tried" if not measurement.engines else "yes, attention fused" if fused else "yes",
    )
    return f"| {' | '.join(cells)} |"


@pytest.mark.slow
def test_the_page_says_what_was_measured(measured: Measure) -> None:
    rows = [_row(family, measured(family)) for family in WORKING]
    assert "\n".join(rows) in PAGE.read_text(), "expected in docs/families.md:\n" + "\n".join(rows)


@pytest.mark.parametrize("page", ["README.md", "docs/how-to/own-model.md", "docs/develop/add-a-model-family.md"])
def test_pages_that_count_them_agree(page: str) -> None:
    counts = re.findall(r"(\d+) families\b|\b(\d+) are tested", (PAGE.parents[1] / page).read_text())
    assert counts and {int(families or tested) for families, tested in counts} == {len(WORKING)}


@pytest.mark.parametrize("family", fast(REFUSED_FAMILIES, "mamba"))
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
