"""benchmarks/ranking/as_of.py against loops over all interactions, on ratings with many equal times."""

from types import SimpleNamespace

import numpy as np
import pytest

from builders.data.indexed_catalog import write_indexed_catalog
from rexit.bundle import Catalog, Split
from rexit.slates import cut
from running.scripts import scripts_of

scripts = scripts_of("benchmarks/ranking")


@pytest.fixture
def as_of():
    import as_of

    return as_of


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    return Catalog.open(write_indexed_catalog(tmp_path_factory.mktemp("as_of")))


COLUMNS = ("users", "items", "times", "liked", "contexts")


def everything(catalog: Catalog) -> Split:
    """All interactions of all splits, by (user, time)."""
    parts = [catalog.split(name) for name in ("train", "validation", "test")]
    joined = Split(*(np.concatenate([getattr(p, name) for p in parts]) for name in COLUMNS))
    order = np.lexsort((joined.items, joined.times, joined.users))
    return Split(*(getattr(joined, name)[order] for name in COLUMNS))


def space(catalog: Catalog) -> SimpleNamespace:
    random = np.random.default_rng(0)

    def unit(n: int) -> np.ndarray:
        vectors = random.normal(size=(n, 4))
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

    users, items = unit(len(catalog.users)), unit(len(catalog.items))
    users[3], items[5] = 0, 0  # of these nothing is known
    return SimpleNamespace(users=users, items=items, fold_in=random.normal(size=items.shape).astype(np.float32))


@pytest.mark.parametrize("size", [1, 3, 20])
def test_slates_are_those_of_rexit(as_of, catalog: Catalog, size: int) -> None:
    rows = catalog.split("train")
    pairs, slates = as_of.cut(rows, size), cut(catalog, "train", size)
    assert [len(s.items) for s in slates] == np.bincount(pairs.slate).tolist()
    assert [s.as_of for s in slates] == pairs.as_of[pairs.first].tolist()
    assert catalog.items.take(pairs.items) == [item for s in slates for item in s.items]


def test_counts_are_of_what_was_before(as_of, catalog: Catalog) -> None:
    pairs, rows = as_of.cut(catalog.split("train"), 3), everything(catalog)
    counts = as_of.Interactions(catalog).counts(pairs)
    assert counts[:, 0].min() == 0 and counts[:, 0].max() > 5
    for n in range(len(pairs)):
        for column, there in ((0, rows.users == pairs.users[n]), (3, rows.items == pairs.items[n])):
            seen = there & (rows.times < pairs.as_of[n])
            likes = rows.liked[seen].sum()
            assert counts[n, column : column + 3] == pytest.approx([seen.sum(), likes, (likes + 1) / (seen.sum() + 2)])


def test_a_user_is_folded_in_from_what_was_before(as_of, catalog: Catalog) -> None:
    pairs, rows, vectors = as_of.cut(catalog.split("test"), 3), everything(catalog), space(catalog)
    found = as_of.Interactions(catalog).folded_in(pairs, vectors)
    for n in range(len(pairs)):
        seen = (rows.users == pairs.users[n]) & (rows.times < pairs.as_of[n]) & rows.liked
        expected = vectors.fold_in[rows.items[seen]].sum(0)
        assert found[n] == pytest.approx(expected / np.linalg.norm(expected), abs=1e-5)


def test_lists_tell_what_was_said_before(as_of, catalog: Catalog) -> None:
    pairs, rows, vectors = as_of.cut(catalog.split("train"), 3), everything(catalog), space(catalog)
    made = as_of.Interactions(catalog)
    users = vectors.users[pairs.users]
    dot, lists = made.retrieved(pairs, vectors, users)
    assert lists[:, 0].any() and lists[:, 2].any()
    for n in range(len(pairs)):
        user, item, moment = pairs.users[n], pairs.items[n], pairs.as_of[n]
        assert dot[n, 0] == pytest.approx(users[n] @ vectors.items[item], abs=1e-6)
        closeness = vectors.users @ users[n]
        closeness[[user, 3]] = -np.inf
        similar = np.argsort(-closeness)[: as_of.LIST] if users[n].any() else np.empty(0, int)
        said = np.isin(rows.users, similar[np.isfinite(closeness[similar])]) & (rows.items == item) & (rows.times < moment)
        assert lists[n, :2].tolist() == [(said & rows.liked).sum(), (said & ~rows.liked).sum()]
        own = np.flatnonzero((rows.users == user) & (rows.times < moment) & (rows.items != item) & (rows.items != 5))
        if item == 5:
            own = own[:0]
        near = own[np.argsort(-(vectors.items[rows.items[own]] @ vectors.items[item]), kind="stable")][: as_of.LIST]
        verdicts = np.where(rows.liked[near], 1, -1)
        assert lists[n, 2:].tolist() == [(verdicts > 0).sum(), (verdicts < 0).sum(), verdicts[:1].sum(), verdicts[:3].sum()]
