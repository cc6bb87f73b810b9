"""Vectors in prompts: the ids that stand for them, and what they are looked up with."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from builders.data import ratings
from rexit.data.slates import cut
from rexit.exporter.options import LightGCNOptions
from rexit.exporter.prompt.builder import PromptBuilder
from rexit.format.bundle import Catalog

TEMPLATE = """
prompt = "{user.gcn}|{history.recent:4}|{item.title:2} {item.gcn}|{history.nearest:3}:"
entry = "{item.gcn}{verdict}"
[zero]
inputs = []
[labels]
yes = " yes"
no = " no"
"""


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    return ratings.index(tmp_path_factory.mktemp("vectors"), TEMPLATE)


def test_the_catalog_says_that_there_are_vectors(catalog: Catalog) -> None:
    assert catalog.info["prompt"]["vectors"] == [{"name": "gcn", "count": 1}, {"name": "title:2", "count": 2}]
    assert "field.title" in catalog.item_table, "what the title's vectors are made of"
    ids = catalog.vector_ids
    assert ids is not None and ids.begins() == {"gcn": ids.vocabulary, "title:2": ids.vocabulary + ratings.ITEMS}
    assert ids.user_id == ids.vocabulary + 3 * ratings.ITEMS


def test_each_vector_has_its_id(catalog: Catalog) -> None:
    ids, rated = catalog.vector_ids, ratings.interactions().sort("timestamp", "item_id")
    assert ids is not None
    gcn, title = ids.begins().values()
    own_ratings = rated.filter(pl.col("user_id") == 3)
    prompt = PromptBuilder(catalog).prompt(3, [7, 8])
    ids_by_part = [prompt.prefix[prompt.prefix >= ids.vocabulary], *(c[c >= ids.vocabulary] for c in prompt.candidates)]
    assert ids_by_part[0].tolist() == [ids.user_id, *(gcn + own_ratings["item_id"][-4:] - 1)]
    for item, own in zip((7, 8), ids_by_part[1:], strict=True):
        row = item - 1
        assert own[:3].tolist() == [title + 2 * row, title + 2 * row + 1, gcn + row]
        assert set(own[3:] - gcn) <= set(own_ratings["item_id"] - 1) and len(own) == 6
    assert prompt.prefix.dtype == np.int32 and prompt.part is None
    assert prompt.liked.tolist() == (own_ratings.filter(pl.col("rating") >= 4)["item_id"] - 1).to_list()


def test_likes_are_those_of_the_moment_and_fresh_ones(catalog: Catalog) -> None:
    builder = PromptBuilder(catalog)
    rated = ratings.interactions().sort("timestamp", "item_id").filter((pl.col("user_id") == 5) & (pl.col("timestamp") < 200))
    liked = (rated.filter(pl.col("rating") >= 4)["item_id"] - 1).to_list()
    assert builder.prompt(5, [1], 200, [(9, True), (10, False), (9, True)]).liked.tolist() == [*liked, 8, 8]
    unknown = builder.prompt(999, [1], 200)
    assert unknown.liked.tolist() == [] and unknown.prefix[0] == builder.prompt(5, [1]).prefix[0], "one id for every user"


def test_a_training_prompt_says_which_part_it_is_in(catalog: Catalog) -> None:
    builder = PromptBuilder(catalog, training=True)
    begins, parts = catalog.snapshots["begins"], set()
    for slate in cut(catalog, "train", 1):
        prompt, row = builder.prompt(slate.user, slate.items, slate.as_of), catalog.users.row(slate.user)
        assert slate.as_of is not None and prompt.part == (begins[row] <= slate.as_of).sum()
        parts.add(prompt.part)
    assert parts == set(range(LightGCNOptions().snapshots))
