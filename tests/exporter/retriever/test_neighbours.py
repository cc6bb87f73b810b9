import numpy as np
import pytest
from numpy.typing import NDArray

from rexit.exporter.retriever.neighbours import similar_users


def histories(*likes: list[int]) -> dict[str, np.ndarray]:
    """A user for each list of items; what is negative was met and not liked."""
    flat = np.array([item for items in likes for item in items])
    return {
        "history_offsets": np.cumsum([0, *map(len, likes)]),
        "history_items": abs(flat).astype(np.int32),
        "history_liked": (flat >= 0).astype(np.uint8),
    }


def test_similar_users_are_near_to_what_was_liked_not_to_the_own_embedding() -> None:
    users = np.array([[1, 0], [0, 1], [-1, 0], [0, 0]], np.float16)
    fold_in = np.array([[0, 1], [1, 0], [-1, 0]], np.float16)
    # User 0 liked what is user 1's direction; user 2 liked nothing; user 3 is in nobody's graph, but liked item 2.
    result = similar_users(users, fold_in, histories([0, -1], [1, 2, 0], [-1], [2]), 3)
    assert result.tolist() == [[1, 2, 0], [0, 2, 1], [2, 2, 2], [2, 1, 0]]


def test_there_are_never_more_neighbours_than_others() -> None:
    eye, nothing = np.eye(3, dtype=np.float16), histories([0], [1], [2])
    assert similar_users(eye, eye, nothing, 20).shape == (3, 2)
    assert similar_users(eye[:1], eye, histories([0]), 20).shape == (1, 0)


def test_a_zero_embedding_neither_has_nor_is_a_neighbour() -> None:
    vectors = np.array([[0, 0], [1, 0], [-1, 0], [0, 0], [-0.5, 0]], np.float16)
    result = similar_users(vectors, vectors, histories(*([row] for row in range(5))), 3)
    assert result.tolist() == [[0, 0, 0], [4, 2, 1], [4, 1, 2], [3, 3, 3], [2, 1, 4]]


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize(("users", "dim", "different"), [(600, 3, 600), (1500, 16, 1500), (1500, 16, 40)])
def test_the_nearest_are_those_that_exact_sums_say(users: int, dim: int, different: int, own: bool) -> None:
    """In three dimensions users are nearer to each other than float32 can tell."""
    rng = np.random.default_rng(0)
    vectors = unit(rng.normal(size=(different, dim)))[rng.integers(different, size=users)] * (rng.random((users, 1)) < 0.9)
    vectors, likes = vectors.astype(np.float16), rng.integers(50, size=(users, 4))
    fold_in = unit(rng.normal(size=(50, dim)))
    queries = np.array([direction(fold_in[row].astype(np.float64).sum(0)) for row in likes])
    if own:
        queries = np.where(vectors.any(1, keepdims=True), vectors, queries)
    scores = queries.astype(np.float64) @ vectors.astype(np.float64).T
    scores[:, ~vectors.any(1)] = -np.inf
    np.fill_diagonal(scores, -np.inf)
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :20]
    reports: list[tuple[str, int, int]] = []
    result = similar_users(vectors, fold_in, histories(*likes.tolist()), 20, None, lambda *report: reports.append(report), own)
    assert (result == expected).all()
    assert reports[0] == ("similar users", 0, users) and reports[-1] == ("similar users", users, users)


def unit(rows: NDArray[np.float64]) -> NDArray[np.float16]:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


def direction(total: NDArray[np.float64]) -> NDArray[np.float16]:
    """A sum over the power of two that brings its largest component into [0.5, 1)."""
    return np.ldexp(total, -np.frexp(np.abs(total).max())[1]).astype(np.float16)


@pytest.mark.parametrize(
    ("name", "place", "value"), [("items", 0, 9), ("items", 0, -1), ("offsets", 1, 7), ("offsets", 0, -1), ("offsets", 3, 99)]
)
def test_a_damaged_history_is_refused(name: str, place: int, value: int) -> None:
    eye, tensors = np.eye(3, dtype=np.float16), histories([0], [1], [2])
    tensors[f"history_{name}"][place] = value
    with pytest.raises(ValueError, match=r"similar: expected rows of users|item row -?\d+ is not one of 3"):
        similar_users(eye, eye, tensors, 2)
