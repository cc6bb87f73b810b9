import numpy as np
import torch

from rexit.exporter.catalog.propagation import Graph
from rexit.exporter.catalog.spectral import SIZE, leading

USERS, ITEMS = 50, 30


def graph(user: np.ndarray, item: np.ndarray) -> Graph:
    order = np.argsort(user, kind="stable")
    user, item = (torch.from_numpy(side[order].astype(np.int32)) for side in (user, item))
    return Graph.of(user, item, USERS, ITEMS)


def begin(likes: Graph, dim: int) -> torch.Tensor:
    return leading(likes, dim, torch.Generator().manual_seed(0))


def test_the_halves_are_those_of_the_adjacency() -> None:
    rng = np.random.default_rng(0)
    made = graph(rng.integers(0, USERS, 200), rng.integers(0, ITEMS, 200))
    whole, (to_users, to_items) = made.adjacency.todense(), made.halves()
    assert (to_users.todense() == whole[:USERS, USERS:]).all()
    assert (to_items.todense() == whole[USERS:, :USERS]).all()


def test_rows_are_the_singular_vectors_times_the_root_of_their_values() -> None:
    rng = np.random.default_rng(0)
    taste = rng.integers(0, 3, USERS)
    user = np.repeat(np.arange(USERS), 8)
    item = np.where(
        rng.random(len(user)) < 0.9, taste[user] * 10 + rng.integers(0, 10, len(user)), rng.integers(0, ITEMS, len(user))
    )
    made = graph(user, item)
    left, values, right = np.linalg.svd(made.halves()[0].todense())
    rows = begin(made, 3).numpy()
    expected = np.concatenate([left[:, :3], right[:3].T]) * np.sqrt(values[:3])
    expected *= SIZE / np.sqrt(np.square(expected).mean())
    signs = np.sign((rows * expected).sum(0))
    assert np.allclose(rows, expected * signs, atol=0.02)


def test_no_more_columns_than_the_rank_and_nothing_for_who_liked_nothing() -> None:
    made = graph(np.array([0, 0, 1, 1, 2, 3]), np.array([0, 1, 0, 1, 5, 5]))  # two blocks of one
    rows = begin(made, 16)
    assert rows.shape == (USERS + ITEMS, 2)
    liked = [0, 1, 2, 3, USERS, USERS + 1, USERS + 5]
    assert rows[liked].any(1).all()
    assert not np.delete(rows.numpy(), liked, 0).any()
