"""Users in lists: how they are made, and that a search finds exactly what docs/format.md says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from builders.bundles.bundle import BundleOptions, write_bundle
from builders.bundles.catalog import CatalogContents, in_lists, make_catalog
from rexit.errors import BundleError
from rexit.exporter.retriever import neighbours as lists
from rexit.exporter.retriever.neighbours import Lists, similar_users
from rexit.format.bundle import Catalog

Half = NDArray[np.float16]


def clustered(users: int = 6000, dim: int = 16, clusters: int = 30, seed: int = 0) -> Half:
    """One user in ten is unknown, and one in ten is like another."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(clusters, dim))[rng.integers(clusters, size=users)] + rng.normal(size=(users, dim)) / 2
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    vectors[rng.random(users) < 0.1] = vectors[7]
    vectors[rng.random(users) < 0.1] = 0
    return vectors


def as_defined(index: Lists, embeddings: Half, query: Half, own: int, k: int) -> list[int]:
    """Rule by rule, with a full sort of exact sums."""
    scanned = np.argsort(-products(query, index.centres), kind="stable")[: index.probes]
    scores = products(query, embeddings)
    candidates = np.flatnonzero(np.isin(index.owner, scanned) & embeddings.any(1) & (np.arange(len(embeddings)) != own))
    return candidates[np.argsort(-scores[candidates], kind="stable")][:k].tolist()


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists beyond 1000 users; searches scan eight."""
    monkeypatch.setattr(lists, "EXACT", 1000)
    monkeypatch.setattr(lists, "PROBES", 8)


def test_up_to_a_hundred_thousand_users_there_are_none(few: None) -> None:
    vectors = clustered(1200)
    assert vectors.any(1).sum() > 1000 and Lists.needed(vectors) is not None
    vectors[np.flatnonzero(vectors.any(1))[1000:]] = 0
    assert Lists.needed(vectors) is None
    assert lists.EXACT == 1000


def test_every_user_with_an_embedding_is_in_the_list_of_the_nearest_centre(few: None) -> None:
    vectors = clustered()
    index, again = Lists.needed(vectors), Lists.needed(vectors)
    assert index is not None and again is not None
    nearest = np.array([products(vector, index.centres).argmax() for vector in vectors])
    assert (index.owner == np.where(vectors.any(1), nearest, -1)).all()
    assert (np.bincount(index.owner[index.owner >= 0], minlength=len(index.centres)) > 0).all(), "none is empty"
    assert (index.centres == again.centres).all() and (index.owner == again.owner).all()


def searched(vectors: Half, index: Lists | None) -> list[list[int]]:
    """Each user's twenty most similar: those nearest to its own embedding."""
    nothing = {"history_offsets": np.zeros(len(vectors) + 1, np.int64), "history_items": np.zeros(0, np.int32)}
    nothing["history_liked"] = np.zeros(0, np.uint8)
    table = similar_users(vectors, vectors[:1], nothing, 20, index, own=True)
    return [[user for user in near if user != own] for own, near in enumerate(table.tolist())]


def test_a_search_finds_what_the_definition_says(few: None) -> None:
    vectors = clustered(1500)
    index = Lists.needed(vectors)
    assert index is not None
    for own, near in enumerate(searched(vectors, index)):
        assert near == (as_defined(index, vectors, vectors[own], own, 20) if vectors[own].any() else [])


def test_nearly_all_of_the_nearest_are_found(few: None) -> None:
    vectors = clustered()
    index = Lists.needed(vectors)
    assert index is not None
    own = np.flatnonzero(vectors.any(1))[:300].tolist()
    exact, approximate = (searched(vectors, chosen) for chosen in (None, replace(index, probes=32)))
    near = [
        np.mean(products(vectors[user], vectors[approximate[user]]) >= products(vectors[user], vectors[exact[user]]).min())
        for user in own
    ]
    assert np.mean(near) > 0.99


def products(query: Half, vectors: Half) -> NDArray[np.float64]:
    sums: NDArray[np.float64] = vectors.astype(np.float64) @ query.astype(np.float64)
    return sums


def opened(folder: Path, contents: CatalogContents) -> Catalog:
    return Catalog.open(write_bundle(folder / "bundle", BundleOptions(contents)) / "catalog")


def test_a_catalog_keeps_them(few: None, tmp_path: Path) -> None:
    contents = in_lists(make_catalog())
    catalog = opened(tmp_path, contents)
    index, embeddings = Lists.of(catalog), catalog.user_embeddings
    assert index is not None and index.probes == 2
    assert (embeddings == make_catalog().tables["users.safetensors"]["embeddings"]).all(), "in the order of users again"
    for name, tensor in index.tensors(embeddings).items():
        assert tensor.dtype == catalog.user_table[name].dtype and (tensor == catalog.user_table[name]).all(), name
    assert (Lists.around(index.centres, 2, embeddings).owner == index.owner).all()


@pytest.mark.parametrize(
    ("name", "place", "value"), [("list_users", 1, 3), ("list_users", 0, 99), ("list_offsets", 1, -4), ("list_offsets", -1, 99)]
)
def test_damaged_ones_are_refused(tmp_path: Path, name: str, place: int, value: int) -> None:
    contents = in_lists(make_catalog())
    contents.tables["users.safetensors"][name][place] = value
    with pytest.raises(BundleError, match="`list_offsets` and `list_users` are no lists of 12 users"):
        opened(tmp_path, contents).user_embeddings  # noqa: B018
