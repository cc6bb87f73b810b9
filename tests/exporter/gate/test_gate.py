"""The gate of an export without --accept-loss: a variant that passes, one that fails, one that does without an exit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from builders.models.learned import write_learned
from rexit import runtime
from rexit.errors import InputError, QualityError
from rexit.exporter import preflight
from rexit.exporter.export import export_bundle
from rexit.exporter.gate import quality
from rexit.exporter.graph.linear_layers import linears
from rexit.exporter.graph.passes import array, constant
from rexit.exporter.graph.targets import Pass, Target, find_target
from rexit.exporter.options import ExportOptions
from rexit.format.bundle import Bundle, Catalog, Split
from rexit.progress import silent
from rexit.upkeep.checks import check_golden


@pytest.fixture(scope="module")
def taste(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Checkpoint and catalog of 24 users."""
    return write_learned(tmp_path_factory.mktemp("taste"))


@pytest.fixture(autouse=True)
def all_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    """A third of them would be too few."""
    monkeypatch.setattr(quality, "chooses", lambda user: True)


@pytest.mark.medium
def test_int8_passes(taste: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split, read = Catalog.split, set()

    def recorded(self: Catalog, name: str) -> Split:
        read.add(name)
        return split(self, name)

    monkeypatch.setattr(Catalog, "split", recorded)
    export_bundle(*taste, tmp_path / "bundle", ExportOptions(precisions=["fp32", "int8"], golden_slates=2))
    judged = Bundle.open(tmp_path / "bundle", "cpu-int8").variant.quality
    assert judged is not None and (judged["verdict"], judged["accepted"], judged["users"]) == ("passed", False, 24)
    for row in judged["exits"]:
        assert row["auc"] > 0.85 and row["auc_change"][1] >= -0.001 and row["ndcg_change"][0] >= -0.001
    assert judged["labelled"] and judged["left_out"] == []
    assert read == {"train", "validation"}, "the test split is for final figures"


def _one_bit(model: ir.Model) -> ir.Model:
    """A bad pass: every weight of a linear layer becomes its sign."""
    for linear in linears(model):
        signs = np.sign(array(linear.weight)) * np.abs(array(linear.weight)).mean()
        linear.node.replace_input_with(1, constant(model.graph, f"{linear.weight.name}.sign", signs.astype(np.float32)))
    return model


@pytest.mark.medium
def test_what_one_bit_leaves_fails(taste: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _with_pass(monkeypatch, _one_bit)
    with pytest.raises(
        QualityError, match=r"exit after layer 2: log-odds correlate .*; not written: `rexit export --accept-loss`"
    ):
        export_bundle(*taste, tmp_path / "bundle", ExportOptions(precisions=["int8"], golden_slates=2))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.medium
def test_an_exit_that_fails_is_left_out(taste: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_a_head(model: ir.Model) -> ir.Model:
        """A bad pass: an exit before the last answers 0."""
        if any(output.name == "hidden" for output in model.graph.outputs):
            head = next(value for value in model.graph.initializers.values() if list(value.shape or ()) == [2, 64])
            head.const_value = ir.tensor(np.zeros((2, 64), np.float32))
        return model

    _with_pass(monkeypatch, without_a_head)
    out = tmp_path / "bundle"
    report = export_bundle(*taste, out, ExportOptions(precisions=["fp32", "int8"], golden_slates=2))
    exact, lower = Bundle.open(out, "cpu-fp32"), Bundle.open(out, "cpu-int8")
    assert (report.exits, exact.exits, lower.exits) == ((1, 2), (1, 2), (2,)) and lower.manifest.exits == (1, 2)
    judged = lower.variant.quality
    assert judged is not None and (judged["verdict"], judged["accepted"]) == ("passed", False)
    assert [row["layers"] for row in judged["exits"]] == [2] == [row["layers"] for row in lower.variant.parity["exits"]]
    [left_out] = judged["left_out"]
    assert left_out["layers"] == 1 and left_out["reason"].startswith("log-odds correlate nan with float32's")
    assert sorted(path.name for path in (out / "variants").iterdir()) == ["cpu-fp32", "cpu-int8"]
    assert sorted(path.name for path in out.iterdir()) == ["catalog", "manifest.json", "variants"]
    with runtime.open(out, "cpu-int8") as session:
        assert [info.layers for info in session.exits] == [2] and {
            check.outcome for check in check_golden("cpu-int8", session, silent)
        } == {"ok"}
        with pytest.raises(InputError, match="force_exit is 1, the bundle has exits 0 to 0"):
            session.score(lower.catalog.users.id(0), [lower.catalog.items.id(0)], force_exit=1)


def _with_pass(monkeypatch: pytest.MonkeyPatch, bad: Pass) -> None:
    """Puts a pass before those of the lower precisions."""

    def changed(name: str, precision: str) -> Target:
        target = find_target(name, precision)
        return replace(target, passes=(bad, *target.passes)) if target.gate else target

    monkeypatch.setattr(preflight, "find_target", changed)
