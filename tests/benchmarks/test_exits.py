"""benchmarks/ranking/exits.py: a checkpoint in PyTorch and its bundle say the same, as files that baselines.py takes."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from builders.data.indexed_catalog import write_indexed_catalog
from builders.models.checkpoints import tiny_checkpoint
from rexit.bundle import Catalog
from rexit.exporter.export import export_bundle
from rexit.exporter.options import ExportOptions
from rexit.ranking import auc
from running.scripts import scripts_of

scripts = scripts_of("benchmarks/ranking", "examples/movielens")


@pytest.mark.slow
def test_checkpoint_and_bundle_say_the_same(tmp_path: Path, monkeypatch, capsys) -> None:
    import baselines
    import exits

    catalog = Catalog.open(write_indexed_catalog(tmp_path))
    tiny_checkpoint(tmp_path / "checkpoint", catalog=catalog)
    export_bundle(tmp_path / "checkpoint", tmp_path / "catalog", tmp_path / "bundle", ExportOptions(golden_slates=2))
    found = {}
    for variant in ((), ("--variant", "cpu-fp32")):
        monkeypatch.setattr(sys, "argv", ["exits.py", str(tmp_path), *variant])
        exits.main()
        found[variant] = {split: np.load(tmp_path / "exits" / f"{split}.npy") for split in ("validation", "test")}
        shutil.rmtree(tmp_path / "exits") if not variant else None
    for split in ("validation", "test"):
        one, other = (scores[split] for scores in found.values())
        assert one.shape == (len(catalog.split(split)), 3)
        np.testing.assert_allclose(one, other, atol=1e-3)
    test = catalog.split("test")
    model = baselines.scored(catalog, "2 layers", tmp_path / "exits" / "2.parquet")
    z = found[variant]["test"][:, 1]
    assert abs(auc(model.score, test.liked) - 0.5) == pytest.approx(abs(auc(z, test.liked) - 0.5), abs=1e-6)
    assert "Validation" in capsys.readouterr().out


def test_what_a_model_adds_is_nothing_where_it_knows_nothing_and_all_where_it_knows_the_answer() -> None:
    import added
    import baselines

    random = np.random.default_rng(0)
    liked, judged = random.random(2000) < 0.5, random.random(2000) < 0.5
    seen = [truth + 2 * random.standard_normal(2000) for truth in (liked, judged)]
    baseline = baselines.Model("some", seen[1], seen[1], on_validation=seen[0])
    noise = [random.standard_normal(2000) for _ in range(2)]
    assert auc(added.blended(baseline, noise, liked), judged) == pytest.approx(auc(seen[1], judged), abs=0.01)
    answers = [truth.astype(np.float64) + 0.1 * one for truth, one in zip((liked, judged), noise, strict=True)]
    assert auc(added.blended(baseline, answers, liked), judged) > 0.99
