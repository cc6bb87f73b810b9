"""Baselines: the same figures as the script that measures them alone, and what an order of a file is."""

from pathlib import Path

import numpy as np
import pytest

from builders.data.indexed_catalog import write_indexed_catalog
from rexit.data.baselines import FILE_ORDER, LIGHTGCN, LIKES, ZERO, baselines, doubt_without_labels
from rexit.data.slates import TokenSlate, cut
from rexit.data.slates_file import SlatesFile
from rexit.format.bundle import Catalog
from rexit.format.roles import Roles
from running.scripts import scripts_of

scripts = scripts_of("benchmarks/ranking")


def test_a_catalog_s_are_as_of_each_slate(tmp_path: Path) -> None:
    import baselines as script

    catalog = Catalog.open(write_indexed_catalog(tmp_path))
    scores = baselines(catalog, cut(catalog, "test"))
    assert list(scores) == [LIKES, LIGHTGCN]
    np.testing.assert_allclose(scores[LIGHTGCN], script.lightgcn(catalog, 20)[1], atol=1e-6)
    assert np.abs(scores[LIGHTGCN]).max() > 0.01


def file_of(*labels: list[int]) -> SlatesFile:
    slates = [
        TokenSlate(n, np.zeros(1, np.int32), (np.ones(1, np.int32),) * len(part), np.array(part, np.bool_))
        for n, part in enumerate(labels)
    ]
    return SlatesFile(Path("slates.jsonl"), {"test": slates}, Roles())


@pytest.mark.parametrize("size", [None, 2])
def test_places_in_a_file_continue_where_slates_are_cut(size: int | None) -> None:
    file = file_of([0, 1, 0], [1, 0])
    assert baselines(file, file.cut("test", size))[FILE_ORDER].tolist() == [0, -1, -2, 0, -1]


def test_a_file_that_is_sorted_by_label_has_no_order() -> None:
    file = file_of([1, 1, 0], [1, 0], [0])
    assert baselines(file, file.cut("test")) == {}


def test_a_model_that_agrees_with_nothing_that_ranks_is_doubted_without_labels() -> None:
    random, users = np.random.default_rng(0), np.repeat(np.arange(60), 9)
    score = random.normal(size=len(users)).astype(np.float32)
    related, chance = score + 2 * random.normal(size=len(users)), random.normal(size=len(users))
    sentence = doubt_without_labels(score, {ZERO: chance, LIGHTGCN: -related}, users)
    assert sentence is not None and sentence.startswith("This model is not shown to rank: exit zero finds the upper half of its ")
    assert "and LightGCN finds" in sentence and "95 % interval over 60 users" in sentence
    assert doubt_without_labels(score, {ZERO: chance, LIGHTGCN: related}, users) is None, "one of them agrees"
    assert doubt_without_labels(score, {LIKES: chance, FILE_ORDER: chance}, users) is None, "they may be no rankings"
    few = users < 19
    assert doubt_without_labels(score[few], {ZERO: chance[few]}, users[few]) is None
