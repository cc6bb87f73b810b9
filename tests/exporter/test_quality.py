"""The gate of lower precision: what it measures, what it lets pass, and prompts that cannot tell."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rexit.bundle import Bundle, Catalog, Split
from rexit.errors import InputError, ParityError, QualityError
from rexit.exporter import parity, quality
from rexit.exporter.quality import Answers, Gate, Prompts

EXITS = (1, 2, 4)
GATE = Gate(correlation=0.995, auc_drop=0.001)


@pytest.fixture(scope="module")
def catalog(catalog_folder: Path) -> Catalog:
    return Catalog.open(catalog_folder)


@pytest.fixture(scope="module")
def prompts(catalog: Catalog) -> Prompts:
    return Prompts.draw(catalog, 0)


@pytest.fixture(scope="module")
def expected(exported: Path, prompts: Prompts) -> Answers:
    bundle = Bundle.open(exported)
    return quality.answer(parity.Chain(bundle.folder, bundle.variant.segments), prompts, 512)


def test_prompts_are_whole_splits_or_a_fixed_draw(catalog: Catalog, prompts: Prompts) -> None:
    assert sum(len(slate.liked) for slate in prompts.test) == len(catalog.split("test"))
    assert np.concatenate([slate.liked for slate in prompts.test]).tolist() == catalog.split("test").liked.tolist()
    few = [Prompts.draw(catalog, 10) for _ in range(2)]
    assert len(few[0].test) == len(few[0].validation) == 10
    assert [s.prefix.tolist() for s in few[0].test] == [s.prefix.tolist() for s in few[1].test]


def test_answers_are_those_of_the_golden_samples(exported: Path, prompts: Prompts, expected: Answers) -> None:
    bundle = Bundle.open(exported)
    golden = {slate.prefix.tobytes(): slate for slate in bundle.golden().slates}
    at = 0
    for slate in prompts.validation:
        if (same := golden.get(slate.prefix.tobytes())) is not None:
            np.testing.assert_allclose(expected.validation[at : at + len(slate.liked)], same.log_odds, atol=1e-4)
            golden.pop(slate.prefix.tobytes())
        at += len(slate.liked)
    assert not golden and at == len(expected.validation)


def test_chunks_change_nothing(exported: Path, prompts: Prompts, expected: Answers) -> None:
    bundle = Bundle.open(exported)
    chunked = quality.answer(parity.Chain(bundle.folder, bundle.variant.segments), prompts, 16)
    np.testing.assert_allclose(chunked.test, expected.test, atol=1e-5)


def test_the_same_answers_pass(prompts: Prompts, expected: Answers) -> None:
    found = quality.judge(prompts, EXITS, GATE, expected, expected)
    found.check()
    assert [row.layers for row in found.exits] == [1, 2, 4]
    assert all(row.correlation == pytest.approx(1) and row.worst == row.mean == row.auc_drop == 0 for row in found.exits)
    assert found.to_json()["passed"] and not found.to_json()["accepted"]


def test_noise_at_one_exit_is_refused_by_its_name(prompts: Prompts, expected: Answers) -> None:
    noisy = expected.validation.copy()
    noisy[:, 1] += np.random.default_rng(0).standard_normal(len(noisy)) * expected.validation[:, 1].std() * 0.3
    found = quality.judge(prompts, EXITS, GATE, expected, replace(expected, validation=noisy))
    with pytest.raises(
        QualityError, match=r"exit after layer 2: log-odds correlate 0\.9\d+ with float32, at least 0.995 is required"
    ) as e:
        found.check()
    assert isinstance(e.value, ParityError) and e.value.exit_code == 5
    assert found.exits[1].worst > found.exits[1].mean > 0 == found.exits[0].worst
    found.check(accept_loss=True)
    assert found.to_json()["accepted"] and not found.to_json()["passed"]


def test_a_worse_ranking_is_refused_a_better_one_is_not(prompts: Prompts, expected: Answers) -> None:
    liked = np.concatenate([slate.liked for slate in prompts.test])
    worse, better = (expected.test + sign * np.where(liked, 100, 0)[:, None].astype(np.float32) for sign in (-1, 1))
    with pytest.raises(QualityError, match=r"test AUC 0\.0000, float32 has 0\.\d+; a drop of 0\.\d+, at most 0.001 is allowed"):
        quality.judge(prompts, EXITS, GATE, expected, replace(expected, test=worse)).check()
    quality.judge(prompts, EXITS, GATE, expected, replace(expected, test=better)).check()


@pytest.mark.parametrize("split", ["validation", "test"])
def test_nan_never_passes(prompts: Prompts, expected: Answers, split: str) -> None:
    broken = getattr(expected, split).copy()
    broken[3, 2] = np.nan
    found = quality.judge(prompts, EXITS, GATE, expected, replace(expected, **{split: broken}))
    with pytest.raises(QualityError, match=r"exit after layer 4: .*nan"):
        found.check()
    json.dumps(found.to_json(), allow_nan=False)


def test_a_gate_without_correlation(prompts: Prompts, expected: Answers) -> None:
    other = replace(expected, validation=expected.validation[::-1])
    quality.judge(prompts, EXITS, Gate(None, 0.005), expected, other).check()


def test_prompts_that_cannot_tell(
    catalog: Catalog, catalog_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"\d pairs of the validation split are too few to judge a variant by, at least 20"):
        Prompts.draw(catalog, 2)
    split = Catalog.split

    def changed(change: dict[str, Split]) -> Catalog:
        opened = Catalog.open(Path(shutil.copytree(catalog_folder, tmp_path / "catalog", dirs_exist_ok=True)))
        monkeypatch.setattr(Catalog, "split", lambda self, name: change[name] if name in change else split(self, name))
        return opened

    test = split(catalog, "test")
    nothing = Split(*(getattr(test, name)[:0] for name in ("users", "items", "times", "liked")))
    with pytest.raises(InputError, match="test split is empty"):
        Prompts.draw(changed({"test": nothing}), 0)
    with pytest.raises(InputError, match="all not liked: they have no AUC"):
        Prompts.draw(changed({"test": replace(test, liked=np.zeros_like(test.liked))}), 0)
