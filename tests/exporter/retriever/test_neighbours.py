import numpy as np
import pytest

from rexit.exporter.retriever.neighbours import Neighbourhood, similar_users


def test_no_row_is_excluded_by_minus_one() -> None:
    eye = np.eye(3, dtype=np.float16)
    assert [row.tolist() for row in Neighbourhood(eye, 1).nearest(eye[:2], np.array([-1, 1]))] == [[0], [0]]


def test_a_zero_embedding_neither_has_nor_is_a_neighbour() -> None:
    vectors = np.array([[0, 0], [1, 0], [-1, 0], [0, 0], [-0.5, 0]], np.float16)
    result = Neighbourhood(vectors, 3).nearest(vectors, np.arange(5))
    assert [row.tolist() for row in result] == [[], [4, 2], [4, 1], [], [2, 1]]


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


@pytest.mark.parametrize(("users", "dim", "different"), [(2000, 3, 2000), (2000, 16, 2000), (4000, 16, 40), (9000, 16, 3000)])
def test_the_search_in_float32_finds_what_exact_sums_say(users: int, dim: int, different: int) -> None:
    """In three dimensions hundreds of users are nearer to each other than float32 can tell."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(different, dim))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    vectors = vectors[rng.integers(different, size=users)] * (rng.random((users, 1)) < 0.9)
    queries, own = vectors[:100] + rng.normal(size=(100, dim)).astype(np.float16), np.arange(100)
    scores = queries.astype(np.float64) @ vectors.astype(np.float64).T
    scores[:, ~vectors.any(1)] = -np.inf
    scores[own, own] = -np.inf
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :20]
    assert (np.array(Neighbourhood(vectors, 20).nearest(queries, own)) == expected).all()
