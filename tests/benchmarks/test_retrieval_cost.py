"""benchmarks/ranking/retrieval_cost.py with a stub in place of the language model: what it finds, and what it may not know."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from builders.data.indexed_catalog import write_indexed_catalog
from rexit.bundle import Catalog
from running.scripts import scripts_of

scripts = scripts_of("benchmarks/ranking", "examples")


@pytest.fixture
def cost():
    import retrieval_cost

    return retrieval_cost


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    """40 users who like the items with an even number."""
    return Catalog.open(write_indexed_catalog(tmp_path_factory.mktemp("cost"), users=40, taste=True))


def titles(catalog: Catalog) -> list[str]:
    return [f"film {n}" for n in range(len(catalog.items))]


def letters(texts: list[str]) -> np.ndarray:
    """A stub: how often each printable letter stands in a text."""
    return np.array([[text.count(chr(n)) for n in range(32, 127)] for text in texts], np.float32)


def everything(catalog: Catalog, user: int) -> list[tuple[int, int, bool, bool]]:
    """(time, item, liked, of the training split) of a user, in order."""
    rows = []
    for name in ("train", "validation", "test"):
        split = catalog.split(name)
        of = split.users == user
        rows += [
            (*row, name == "train")
            for row in zip(*(x[of].tolist() for x in (split.times, split.items, split.liked)), strict=True)
        ]
    return sorted(rows)


def test_a_history_tells_what_was_before(cost, catalog: Catalog) -> None:
    histories = cost.Histories(catalog, titles(catalog))
    assert histories.text(0, 0) == ""
    for user in (0, 7):
        rows = everything(catalog, user)
        moment = rows[14][0]
        before = [row for row in rows if row[0] < moment]
        assert histories.items(user, moment).tolist() == [item for _, item, *_ in before]
        last = before[::-1][:10]
        liked, disliked = ("; ".join(f"film {item}" for _, item, like, _ in last if like == verdict) for verdict in (True, False))
        assert histories.text(user, moment) == f"Liked: {liked}. Disliked: {disliked}."


@pytest.mark.slow
def test_no_snapshot_knows_what_follows_it(cost, catalog: Catalog) -> None:
    """Every text that is embedded ends before the moment it is used at."""
    asked: list[str] = []

    def embed(texts: list[str]) -> np.ndarray:
        asked.extend(texts)
        return letters(texts)

    names = titles(catalog)
    histories = cost.Histories(catalog, names)
    made = cost.Text(catalog, histories, names, embed)
    begins = catalog.snapshots["begins"]
    for snapshot in (None, *range(begins.shape[1])):
        asked.clear()
        users = made.space(snapshot).users
        assert users.shape == (40, 95) and len(asked) == users.any(1).sum()
        expected = []
        for user in range(40):
            rows = [row for row in everything(catalog, user) if row[3]]
            seen = [row for row in rows if snapshot is None or row[0] < begins[user, snapshot]]
            expected.append(histories.text(user, seen[-1][0] + 1) if seen else "")
        assert asked == [text for text in expected if text]


def test_the_asking_user_is_as_of_the_slate(cost, catalog: Catalog) -> None:
    names = titles(catalog)
    histories = cost.Histories(catalog, names)
    made = cost.Text(catalog, histories, names, letters)
    pairs = cost.cut(catalog.split("test"), 2)
    vectors = made.asking(pairs, None)
    for n in range(len(pairs)):
        raw = letters([histories.text(int(pairs.users[n]), int(pairs.as_of[n]))])[0] - made.centre
        assert vectors[n] == pytest.approx(raw / np.linalg.norm(raw), abs=1e-5)
    assert made.asking(pairs, 1) == pytest.approx(made.space(1).users[pairs.users])


def test_rows_before_the_first_snapshot_have_no_lists(cost, catalog: Catalog) -> None:
    names = titles(catalog)
    interactions = cost.Interactions(catalog)
    parts = [cost.cut(catalog.split(name), 3) for name in ("train", "validation", "test")]
    graph, text = cost.Graph(catalog, interactions), cost.Text(catalog, cost.Histories(catalog, names), names, letters)
    by_graph, by_text = (cost.lists(catalog, interactions, retriever, parts, range(4)) for retriever in (graph, text))
    begins = catalog.snapshots["begins"][parts[0].users]
    first = begins[:, 0]
    for made in (by_graph, by_text):
        assert (np.isnan(made[0]).all(1) == (parts[0].as_of < first)).all()
        assert np.isfinite(made[0]).any() and all(np.isfinite(part).all() for part in made[1:])
    from baselines import lists_of_training

    np.testing.assert_array_equal(by_graph[0], lists_of_training(catalog, interactions, parts[0]))
    some = cost.lists(catalog, interactions, graph, parts, (1, 3))[0]
    same = (parts[0].as_of < first) | (parts[0].as_of >= begins[:, 1]) & (parts[0].as_of < begins[:, 2])
    same |= parts[0].as_of >= begins[:, 3]
    np.testing.assert_array_equal(some[same], by_graph[0][same])
    assert np.isnan(some[parts[0].as_of < begins[:, 1]]).all()


def test_differences_are_from_none_and_from_the_first(cost, catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    import boosting

    monkeypatch.setattr(boosting, "ROUNDS", 10)
    names = titles(catalog)
    text = lambda _: cost.Text(catalog, cost.Histories(catalog, names), names, letters)  # noqa: E731
    retrievers = {"graph": lambda known: cost.Graph(catalog, known), "text": text, "again": text}
    rows = {(row["retriever"], row["lists"]): row for row in cost.worth(catalog, retrievers, range(4))}
    parts = ("nearest", "similar", "both")
    assert list(rows) == [("none", ""), *((name, part) for name in retrievers for part in parts)]
    none = rows.pop(("none", ""))
    assert none["auc"][0] > 0.99 and "less none" not in none
    for (name, part), row in rows.items():
        for metric in ("auc", "user_auc"):
            assert row["less none"][metric][0] == pytest.approx(row[metric][0] - none[metric][0])
            assert row["less graph"][metric][0] == pytest.approx(row[metric][0] - rows["graph", part][metric][0])
            assert row[metric] == rows["text" if name == "again" else name, part][metric]


def test_the_search_finds_the_closest_others(cost, catalog: Catalog) -> None:
    names = titles(catalog)
    histories = cost.Histories(catalog, names)
    made = cost.Text(catalog, histories, names, letters)
    space = made.space(None)
    search = cost.Search(histories, space.users, space.items, made.centre)
    targets, moment = np.array([1, 4, 9]), everything(catalog, 5)[12][0]
    similar, nearest, seconds = search.neighbours(letters, 5, targets, moment)
    asking = letters([histories.text(5, moment)])[0] - made.centre
    closeness = space.users @ asking
    closeness[5] = -np.inf
    assert set(closeness[similar]) == set(np.sort(closeness)[-cost.LIST :]) and 5 not in similar
    own = histories.items(5, moment)
    for target, order in zip(targets, nearest, strict=True):
        cosines = space.items[own] @ space.items[target]
        assert cosines[order] == pytest.approx(np.sort(cosines)[::-1][: cost.LIST], abs=1e-6)
    assert seconds > 0


class Clock:
    """A session that asks how it was called; a look-up takes 2 microseconds, folded in 4, a request 100 times that."""

    info = SimpleNamespace(exits=3)

    def __init__(self) -> None:
        self.calls: list[object] = []

    def clear_cache(self) -> None:
        self.calls.append("cold")

    def score(self, user, items, *, as_of, force_exit, context=None, request=None):
        self.calls.append((as_of is not None, len(items), force_exit))
        took = 4.0 if as_of is not None else 2.0
        return SimpleNamespace(stats=SimpleNamespace(retrieval_us=took, total_us=100 * took))


def test_every_way_is_asked_the_same_slates(cost, catalog: Catalog) -> None:
    names = titles(catalog)
    histories = cost.Histories(catalog, names)
    made = cost.Text(catalog, histories, names, letters)
    space, texts = made.space(None), {"float32": [], "bfloat16": []}

    def embed(name: str):
        return lambda given: (texts[name].extend(given), letters(given))[1]

    slates = cost.slates(catalog, "test", 20)[:4]
    session = Clock()
    search = cost.Search(histories, space.users, space.items, made.centre)
    taken = cost.times(catalog, slates, session, search, {name: embed(name) for name in texts})
    assert session.calls == ["cold", (False, len(slates[0].items), 2), "cold", (True, len(slates[0].items), 2)] * 4
    wanted = [histories.text(int(catalog.users.find([slate.user])[0]), slate.as_of) for slate in slates]
    assert texts == {"float32": wanted, "bfloat16": wanted}
    assert taken["stored"].tolist() == [0.002] * 4 and taken["folded in"].tolist() == [0.004] * 4
    assert (taken["bfloat16"] > taken["search"]).all() and taken["request"] == pytest.approx(0.4)


def test_ratios_are_within_a_round(cost) -> None:
    taken = {"folded in": np.array([1.0, 2.0, 4.0]), "float32": np.array([10.0, 40.0, 40.0])}
    found = cost.compared(taken)
    assert found["float32"] == {"milliseconds": [40, 25, 40], "ratio": [10, 10, 15]}
    assert found["folded in"]["ratio"] == [1, 1, 1]


def test_items_without_words_are_refused(cost, catalog: Catalog, tmp_path: Path) -> None:
    ids = catalog.items.take(np.arange(len(catalog.items)))
    table = tmp_path / "items.csv"
    table.write_text("\n".join(["item_id,title,year", *(f"{id},T{id},19" for id in reversed(ids))]))
    assert cost.described(catalog, table, "{title} ({year})") == [f"T{id} (19)" for id in ids]
    table.write_text("\n".join(["item_id,title", *(f"{id},T{id}" for id in ids[1:])]))
    with pytest.raises(SystemExit, match=f"no words .* for item {ids[0]}"):
        cost.described(catalog, table, "{title}")


def test_nothing_is_embedded_twice(cost, tmp_path: Path) -> None:
    from text_embeddings import Kept

    asked: list[str] = []

    def embed(texts: list[str]) -> np.ndarray:
        asked.extend(texts)
        return letters(texts)

    for _ in range(2):
        kept = Kept(embed, tmp_path)
        assert (kept(["bb", "a", "bb"]) == letters(["bb", "a", "bb"])).all()
        assert (kept(["ccc", "a"]) == letters(["ccc", "a"])).all()
    assert asked == ["a", "bb", "ccc"]
