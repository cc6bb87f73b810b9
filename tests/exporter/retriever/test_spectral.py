import numpy as np
import torch

from rexit.exporter.retriever.lightgcn import ENTRY_SIZE as SIZE
from rexit.exporter.retriever.lightgcn import Graph, leading

USERS, ITEMS = 50, 30


def graph(user: np.ndarray, item: np.ndarray) -> Graph:
    order = np.argsort(user, kind="stable")
    user, item = (torch.from_numpy(side[order].astype(np.int32)) for side in (user, item))
    return Graph.of(user, item, USERS, ITEMS)


def begin(likes: Graph, dim: int, seed: int = 0) -> np.ndarray:
    generator = torch.Generator().manual_seed(0)
    reference = torch.randn(USERS + ITEMS, dim, generator=generator)
    rows: np.ndarray = leading(likes, reference, generator.manual_seed(seed)).numpy()
    return rows


def tastes(count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    taste = rng.integers(0, 3, USERS)
    user = np.repeat(np.arange(USERS), count)
    items_of_taste = taste[user] * 10 + rng.integers(0, 10, len(user))
    return user, np.where(rng.random(len(user)) < 0.9, items_of_taste, rng.integers(0, ITEMS, len(user)))


def test_rows_are_the_singular_vectors_times_the_root_of_their_values_turned() -> None:
    sparse = graph(*tastes(8))
    left, values, right = np.linalg.svd(sparse.to_users.to_dense())
    rows = begin(sparse, 3)
    expected = np.concatenate([left[:, :3], right[:3].T]) * np.sqrt(values[:3])
    expected *= SIZE / np.sqrt(np.square(expected).mean())
    assert np.allclose(rows @ rows.T, expected @ expected.T, atol=0.01), "no rotation of them"
    assert np.isclose(np.sqrt(np.square(rows).mean()), SIZE)


def test_a_graph_and_a_part_of_it_start_alike_for_any_seed() -> None:
    user, item = tastes(40)
    whole, again, part = (
        begin(graph(user, item), 3),
        begin(graph(user, item), 3, seed=1),
        begin(graph(user[::2], item[::2]), 3, seed=2),
    )
    assert np.allclose(whole, again, atol=0.01)
    assert np.corrcoef(whole.ravel(), part.ravel())[0, 1] > 0.9


def test_nothing_for_who_liked_nothing_and_no_more_than_the_rank() -> None:
    sparse = graph(np.array([0, 0, 1, 1, 2, 3]), np.array([0, 1, 0, 1, 5, 5]))  # two blocks of one
    rows = begin(sparse, 16)
    liked = [0, 1, 2, 3, USERS, USERS + 1, USERS + 5]
    assert rows.shape == (USERS + ITEMS, 16) and np.linalg.matrix_rank(rows, tol=1e-4) == 2
    assert rows[liked].any(1).all() and not np.delete(rows, liked, 0).any()
