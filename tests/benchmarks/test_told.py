"""benchmarks/ranking/told.py: what prompts say in numbers is what the interactions say."""

from pathlib import Path

import numpy as np
import pytest

from builders.data.indexed_catalog import WITH_VECTORS, write_indexed_catalog
from rexit.bundle import Catalog
from running.scripts import scripts_of

scripts = scripts_of("benchmarks/ranking")
TEMPLATE = WITH_VECTORS.replace("{item.gcn} ", "{item.gcn}{item.count}{item.like_rate} ") + "[bins]\nlike_rate = 5\n"


@pytest.mark.parametrize("split", ["train", "test"])
def test_steps_are_those_of_the_interactions(split: str, tmp_path: Path) -> None:
    from as_of import Interactions, cut
    from told import numbers, told

    catalog = Catalog.open(write_indexed_catalog(tmp_path, template=TEMPLATE))
    assert [op["op"] for op in numbers(catalog)] == ["user_like_rate", "item_count", "item_like_rate"]
    steps = told(catalog, split, 4)
    n, likes, _, rated, liked, _ = Interactions(catalog).counts(cut(catalog.split(split), 4)).T
    expected = (
        np.where(n > 0, (likes + 1) * 5 // (n + 2), np.nan),
        [int(count).bit_length() for count in rated],
        np.where(rated > 0, (liked + 1) * 5 // (rated + 2), np.nan),
    )
    np.testing.assert_array_equal(steps.T, expected)
    assert all(len(np.unique(column)) > 1 for column in steps.T)
