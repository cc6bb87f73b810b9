"""The gate of an export without --accept-loss: a variant that passes, one that fails, one that is undecided."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from builders.models.learned import write_learned
from rexit.bundle import Bundle, Catalog, Split
from rexit.errors import QualityError
from rexit.exporter import preflight
from rexit.exporter.export import export_bundle
from rexit.exporter.graph.linear_layers import linears
from rexit.exporter.graph.passes import array, constant
from rexit.exporter.graph.targets import find_target
from rexit.exporter.options import ExportOptions


@pytest.fixture(scope="module")
def taste(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Checkpoint and catalog of 24 users."""
    return write_learned(tmp_path_factory.mktemp("taste"))


def test_int8_passes(taste: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split, read = Catalog.split, set()

    def recorded(self: Catalog, name: str) -> Split:
        read.add(name)
        return split(self, name)

    monkeypatch.setattr(Catalog, "split", recorded)
    export_bundle(*taste, tmp_path / "bundle", ExportOptions(precisions=["fp32", "int8"], golden_slates=2))
    judged = Bundle.open(tmp_path / "bundle", "cpu-int8").variant.quality
    assert judged is not None and (judged["verdict"], judged["accepted"], judged["users"]) == ("passed", False, 24)
    [row] = judged["exits"]
    assert row["auc"] > 0.9 and row["auc_change"][0] >= -0.001
    assert read == {"train", "validation"}, "the test split is for final figures"


def _one_bit(model: ir.Model) -> ir.Model:
    """A bad pass: every weight of a linear layer becomes its sign."""
    for linear in linears(model):
        signs = np.sign(array(linear.weight)) * np.abs(array(linear.weight)).mean()
        linear.node.replace_input_with(1, constant(model.graph, f"{linear.weight.name}.sign", signs.astype(np.float32)))
    return model


def test_what_one_bit_leaves_fails(taste: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ruined(name: str, precision: str) -> object:
        target = find_target(name, precision)
        return replace(target, passes=(_one_bit, *target.passes))

    monkeypatch.setattr(preflight, "find_target", ruined)
    with pytest.raises(QualityError, match=r"exit after layer 2: log-odds correlate .*; not written: --accept-loss"):
        export_bundle(*taste, tmp_path / "bundle", ExportOptions(precisions=["int8"], golden_slates=2))
    assert list(tmp_path.iterdir()) == []
