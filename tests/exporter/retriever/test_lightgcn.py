from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch_geometric.nn import LightGCN

from builders.data import ratings
from rexit.errors import InputError
from rexit.exporter.catalog.splits import assign
from rexit.exporter.options import IndexOptions, LightGCNOptions
from rexit.exporter.retriever import lightgcn
from rexit.exporter.retriever.lightgcn import Edges, Graph, Likes

SMALL = LightGCNOptions(dim=16, layers=2, epochs=40)
NOTHING: Edges = (np.empty(0, np.int64), np.empty(0, np.int64))


def split_likes() -> Likes:
    rated = ratings.interactions().select(
        user=pl.col("user_id") - 1, item=pl.col("item_id") - 1, time="timestamp", liked=pl.col("rating") >= 4
    )
    rated, _ = assign(rated, IndexOptions(), Path("ratings.csv"))

    def edges(*splits: str, liked: bool = True) -> Edges:
        part = rated.filter(pl.col("split").is_in(splits) & (pl.col("liked") | (not liked)))
        return part["user"].to_numpy(), part["item"].to_numpy()

    excluded = edges("train", liked=False)
    return Likes(edges("train"), edges("train"), excluded, edges("validation"), ratings.USERS, ratings.ITEMS)


def train(options: LightGCNOptions = SMALL) -> lightgcn.Retriever:
    return lightgcn.train(split_likes(), options)


def test_it_finds_the_two_tastes_and_beats_popularity() -> None:
    users, items, rng = 60, 200, np.random.default_rng(0)
    user = np.repeat(np.arange(users), 24)
    item = np.concatenate([rng.permutation(items // 2)[:24] * 2 + u % 2 for u in range(users)])
    held_out = np.arange(len(user)) % 24 >= 20
    mixed = rng.permutation(len(user))  # likes need no order
    user, item, held_out = user[mixed], item[mixed], held_out[mixed]
    train, later = (user[~held_out], item[~held_out]), (user[held_out], item[held_out])
    retriever = lightgcn.train(Likes(train, train, train, later, users, items), SMALL)
    assert retriever.recall is not None and retriever.popularity_recall is not None
    assert retriever.recall > retriever.popularity_recall + 0.05
    alike, same = retriever.users @ retriever.users.T, np.add.outer(np.arange(users), np.arange(users)) % 2 == 0
    assert alike[same].mean() > alike[~same].mean() + 0.5
    assert np.allclose(np.linalg.norm(retriever.users, axis=1), 1, atol=1e-5)


def test_the_same_seed_gives_the_same_embeddings() -> None:
    state = torch.random.get_rng_state()
    first, second, other = train(), train(), train(replace(SMALL, seed=1))
    assert (first.users == second.users).all() and (first.fold_in == second.fold_in).all()
    assert (first.users != other.users).any()
    assert (state == torch.random.get_rng_state()).all(), "the caller's random state was touched"


def test_it_stops_early_and_reports_progress() -> None:
    steps: list[tuple[str, int, int]] = []
    options = LightGCNOptions(dim=4, layers=1, epochs=500, patience=10)
    retriever = lightgcn.train(split_likes(), options, lambda *now: steps.append(now))
    assert retriever.epochs <= len(steps) < 500
    assert steps[0] == ("LightGCN", 0, 500) and steps[-1][1] == len(steps) - 1


def test_a_number_of_epochs_is_run_whatever_recall_says() -> None:
    options = LightGCNOptions(dim=4, layers=1, epochs=500, patience=10)
    measured, plain = (
        lightgcn.train(likes, options, epochs=12) for likes in (split_likes(), replace(split_likes(), targets=NOTHING))
    )
    assert measured.epochs == plain.epochs == 12 and (measured.users == plain.users).all()
    assert measured.recall is not None and plain.recall is None


def test_a_large_graph_starts_from_singular_vectors_which_are_kept_where_training_finds_nothing_better(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    random = train(replace(SMALL, epochs=0))
    monkeypatch.setattr(lightgcn, "LARGE", 0)
    start = train(replace(SMALL, epochs=0))
    assert start.recall is not None and random.recall is not None and start.recall > random.recall
    worse = train(replace(SMALL, epochs=5, learning_rate=1e3))
    assert (worse.epochs, worse.recall) == (0, start.recall) and (worse.users == start.users).all()


def test_fold_in_is_what_propagation_gives_a_new_user() -> None:
    """A user with no embedding of their own is, after propagation, a multiple of the sum of their items' `fold_in`."""
    user, item = torch.tensor([0, 0, 1, 1, 2, 2], dtype=torch.int32), torch.tensor([0, 1, 1, 2, 1, 3], dtype=torch.int32)
    users, items = 3, 5
    model = LightGCN(users + items, 6, 3, normalize=False)
    model.embedding.weight.data[2] = 0  # user 2 is new: item 1 is everybody's, item 3 nobody else's
    graph = Graph.of(user, item, users, items)
    made_users, made_items, fold_in = (part.numpy() for part in lightgcn._embeddings(model, graph))
    assert np.allclose(unit(made_users[2]), unit(fold_in[1] + fold_in[3]), atol=1e-6)
    assert 0.5 <= abs(fold_in).max() < 1
    whole = model.get_embedding(_adjacency(graph)).detach().numpy()
    assert np.allclose(made_users[0], whole[0], atol=1e-6), "not the mean of layers"
    assert np.allclose(made_items[:4], whole[3:7], atol=1e-6)
    assert not fold_in[4].any() and not made_items[4].any(), "nobody liked item 4: an untrained embedding says nothing"


def _adjacency(graph: Graph) -> torch.Tensor:
    users, items = len(graph.user_degree), len(graph.item_degree)
    whole = torch.zeros(users + items, users + items)
    whole[:users, users:], whole[users:, :users] = graph.to_users.to_dense(), graph.to_items.to_dense()
    return whole.to_sparse_csr()


def unit(vector: np.ndarray) -> np.ndarray:
    length: np.ndarray = vector / np.linalg.norm(vector)
    return length


def test_users_and_items_without_a_like_in_the_graph_are_zero() -> None:
    likes = split_likes()
    remaining = (likes.graph[0] != 3) & (likes.graph[1] != 7)
    user, item = (side[remaining] for side in likes.graph)
    retriever = lightgcn.train(replace(likes, graph=(user, item)), SMALL)
    without = sorted({*range(ratings.ITEMS)} - {*item.tolist()})
    assert 7 in without and np.flatnonzero(~retriever.users.any(1)).tolist() == [3]
    assert np.flatnonzero(~retriever.items.any(1)).tolist() == np.flatnonzero(~retriever.fold_in.any(1)).tolist() == without


def test_each_option_of_the_training_changes_it() -> None:
    first = train()
    for changed in ({"negatives": 4}, {"learning_rate": 0.05}, {"weight_decay": 0.1}):
        assert (first.users != train(replace(SMALL, **changed)).users).any(), changed


def test_a_training_that_diverges_is_named() -> None:
    with pytest.raises(InputError, match=r"LightGCN did not converge at learning rate 1e\+30: choose a smaller `learning_rate`"):
        train(replace(SMALL, learning_rate=1e30))


def test_a_training_without_likes_is_named() -> None:
    with pytest.raises(InputError, match="no liked interaction in the train split"):
        lightgcn.train(Likes(NOTHING, NOTHING, NOTHING, NOTHING, 2, 2), SMALL)


def test_the_gradient_is_the_one_that_autograd_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    users, items = 7, 5
    torch.manual_seed(0)
    user, *rows = (torch.randint(most, (40,)) for most in (users, items, items, items))
    user = user.sort().values
    nodes = torch.stack([user, *(users + item for item in rows)])
    model = LightGCN(users + items, 8, 3)
    edges = torch.cat([nodes[:2], nodes[:2].flip(0)], 1)
    u, i, *j = model.get_embedding(edges)[nodes]
    against = torch.stack([(u * column).sum(1) for column in j])
    model.recommendation_loss((u * i).sum(1), against, torch.unique(nodes), 0.1).backward()
    expected = model.embedding.weight.grad
    graph = Graph.of(user.int(), rows[0].int(), users, items)
    for block in (lightgcn.BLOCK, 16):
        monkeypatch.setattr(lightgcn, "BLOCK", block)
        model.zero_grad()
        lightgcn._backward(model, graph, user.int(), torch.stack(rows).int(), torch.ones(len(user)), 0.1)
        assert torch.allclose(model.embedding.weight.grad, expected, rtol=1e-4, atol=1e-7)
