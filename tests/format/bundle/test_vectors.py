"""vectors.safetensors and the ids of its vectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from builders.bundles.bundle import BundleOptions, write_bundle
from builders.bundles.catalog import ITEMS, make_catalog
from builders.bundles.model import HIDDEN, VOCABULARY, vectors_by_id
from rexit.errors import BundleError
from rexit.format.bundle import Bundle, Catalog
from rexit.format.bundle.files import write_json
from rexit.format.bundle.vectors import FILE, Vectors


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle", BundleOptions(make_catalog(vectors=True)))


def read(bundle: Path) -> Vectors:
    ids = Catalog.open(bundle / "catalog").vector_ids
    assert ids is not None
    return Vectors.read(bundle / FILE, ids, HIDDEN)


def test_every_id_has_its_vector(bundle: Path) -> None:
    vectors, liked = read(bundle), np.array([3, 3, 0])
    ids = np.arange(VOCABULARY, VOCABULARY + 3 * ITEMS + 1)
    for likes in (liked, liked[:0]):
        rows = vectors.of(ids[::-1], likes)
        assert rows.dtype == np.float32
        np.testing.assert_array_equal(rows[::-1], vectors_by_id(load_file(bundle / FILE), likes))


def test_what_is_written_is_read(bundle: Path, tmp_path: Path) -> None:
    vectors = read(bundle)
    vectors.write(tmp_path / FILE)
    assert load_file(tmp_path / FILE).keys() == {"gcn", "title:2", "user", "user.none"}
    again = Vectors.read(tmp_path / FILE, vectors.ids, HIDDEN)
    np.testing.assert_array_equal(again.tables["title:2"], vectors.tables["title:2"])


def test_a_bundle_whose_segments_take_what_it_has_not_is_refused(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    del manifest["files"][FILE]
    write_json(bundle / "manifest.json", manifest)
    with pytest.raises(BundleError, match=r"disagree on whether there is a vectors.safetensors"):
        Bundle.open(bundle)


def test_text_has_no_vectors(tmp_path: Path) -> None:
    bundle = Bundle.open(write_bundle(tmp_path / "bundle"))
    assert bundle.vectors() is None and bundle.catalog.vector_ids is None


PROMPT = make_catalog(vectors=True).info["prompt"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"prompt": {**PROMPT, "vectors": [{"name": "look", "count": 1}]}},
            "'look' is a column of vectors, expected a `count` of 1 and a `dim`",
        ),
        ({"prompt": {**PROMPT, "vectors": [{"name": "look", "count": 2, "dim": 8}]}}, "'look' is a column of vectors"),
        ({"prompt": {**PROMPT, "vectors": [{"name": "look", "count": 1, "dim": 1 << 17}]}}, "dim: is 131072, expected"),
        ({"counts": {"users": 12, "items": 1 << 30}}, "need ids beyond 2^31 - 1"),
    ],
)
def test_a_catalog_that_contradicts_itself(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    """More in tests/damage/tables.py."""
    info = make_catalog(vectors=True).info
    bundle = write_bundle(tmp_path / "bundle", BundleOptions(make_catalog(vectors=True)))
    path = bundle / "catalog/catalog.json"
    write_json(path, {**info, **change, "files": Catalog.open(path.parent).info["files"]})
    with pytest.raises(BundleError) as caught:
        Catalog.open(path.parent)
    assert message in str(caught.value) and "catalog.json" in str(caught.value)
