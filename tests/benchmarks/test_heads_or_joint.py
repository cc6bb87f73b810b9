"""benchmarks/ranking/heads_or_joint.py and layer_costs.py: exits of two bundles side by side, with costs by layers."""

import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from builders.data.indexed_catalog import write_indexed_catalog
from builders.models.checkpoints import tiny_checkpoint
from rexit.bundle import Bundle, Catalog
from rexit.calibration.options import CalibrationOptions
from rexit.calibration.run import calibrate
from rexit.exporter.export import export_bundle
from rexit.exporter.options import ExportOptions
from running.scripts import scripts_of

scripts = scripts_of("benchmarks/ranking")


def write_checkpoint(folder: Path, base: float, heads: list[float]) -> Path:
    folder.mkdir()
    save_file({"layer.weight": np.full(3, base, np.float32), "norm": np.ones(2, np.float32)}, folder / "model.safetensors")
    save_file(
        {f"exit.{k}.weight": np.full(2, value, np.float32) for k, value in enumerate(heads)}, folder / "exit_heads.safetensors"
    )
    return folder


def test_same_bits_counts_the_base_and_the_last_head(tmp_path: Path) -> None:
    import heads_or_joint

    model = write_checkpoint(tmp_path / "model", 1.0, [5.0])
    kept = write_checkpoint(tmp_path / "kept", 1.0, [2.0, 3.0, 5.0])
    changed = write_checkpoint(tmp_path / "changed", np.nextafter(np.float32(1), np.float32(2)), [5.0, 2.0])
    assert heads_or_joint.same_bits(model, kept) == "the same bits: 2 of 2 tensors of the base, 1 of 1 of the last exit's head"
    assert heads_or_joint.same_bits(model, changed) == "the same bits: 1 of 2 tensors of the base, 0 of 1 of the last exit's head"


def test_tables_have_what_heads_win_and_what_depth_pays() -> None:
    import heads_or_joint

    def measured(value: float):
        return heads_or_joint.Measured(np.full((3, 4), value))

    by_exit, depth = heads_or_joint.tables({1: measured(0.5), 4: measured(0.7)}, {1: measured(0.6), 4: measured(0.65)})
    changes = [list(column.cells) for column in by_exit.columns][2]
    assert changes[2].startswith("-0.1000") and changes[5].startswith("+0.0500")
    rows = list(zip(*(list(column.cells) for column in depth.columns), strict=True))
    assert [(row[0], row[1], row[2][:7]) for row in rows] == [
        ("1 layer", "heads after", "+0.2000"),
        ("1 layer", "joint", "+0.0500"),
    ]


@pytest.mark.slow
def test_costs_by_layers_calibrate_a_bundle_and_its_exits_are_those_of_the_traces(tmp_path: Path, monkeypatch, capsys) -> None:
    import heads_or_joint
    import layer_costs

    catalog = Catalog.open(write_indexed_catalog(tmp_path))
    tiny_checkpoint(tmp_path / "checkpoint", catalog=catalog)
    export_bundle(tmp_path / "checkpoint", tmp_path / "catalog", tmp_path / "bundle", ExportOptions(golden_slates=2))
    profile = tmp_path / "costs.json"
    # As many threads as there are: other tests of this process may have opened the pool, which the first decides.
    words = [str(tmp_path / "bundle"), "--threads", "0", "--out", str(profile)]
    monkeypatch.setattr(sys, "argv", ["layer_costs.py", *words])
    layer_costs.main()
    bundle = Bundle.open(tmp_path / "bundle")
    options = CalibrationOptions(slate=10, max_slates=20, threads=0, timed_slates=1, repeats=1, profile=profile)
    rows = calibrate(bundle, catalog, options).report["table"]
    full = rows[0]["cost_us"]
    depths = bundle.manifest.exits
    fixed = [row for row in rows if row["policy"].startswith(tuple(f"{depth} layer" for depth in depths[:-1]))]
    assert [row["cost_us"] / full for row in fixed] == pytest.approx([depth / depths[-1] for depth in depths[:-1]])
    arguments = [
        str(tmp_path / "catalog"),
        str(tmp_path / "bundle"),
        str(tmp_path / "bundle"),
        "--slate",
        "10",
        "--max-slates",
        "20",
    ]
    monkeypatch.setattr(sys, "argv", ["heads_or_joint.py", *arguments])
    heads_or_joint.main()
    assert capsys.readouterr().out.count("+0.0000 (+0.0000 to +0.0000)") >= 3 * len(depths)
