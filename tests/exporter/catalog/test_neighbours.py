import numpy as np

from rexit.exporter.catalog.neighbours import similar_users, top


def test_ties_go_to_the_lower_index_and_minus_infinity_is_never_taken() -> None:
    scores = np.array([1.0, 3.0, -np.inf, 3.0, 2.0, 3.0])
    assert top(scores, 2).tolist() == [1, 3]
    assert top(scores, 4).tolist() == [1, 3, 5, 4]
    assert top(scores, 9).tolist() == [1, 3, 5, 4, 0]
    assert top(np.array([]), 3).tolist() == []


def test_similar_users_against_a_full_sort() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(300, 8)).astype(np.float16)
    vectors[7] = vectors[250]
    scores = vectors.astype(np.float64) @ vectors.astype(np.float64).T
    np.fill_diagonal(scores, -np.inf)
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :5]
    assert (similar_users(vectors, 5) == expected).all()


def test_a_zero_embedding_has_no_neighbours_and_is_nobodys() -> None:
    vectors = np.array([[0, 0], [1, 0], [-1, 0], [0, 0], [-0.5, 0]], np.float16)
    assert similar_users(vectors, 3).tolist() == [[0, 0, 0], [4, 2, 1], [4, 1, 2], [3, 3, 3], [2, 1, 4]]


def test_there_are_never_more_neighbours_than_others() -> None:
    assert similar_users(np.eye(3, dtype=np.float16), 20).shape == (3, 2)
    assert similar_users(np.ones((1, 4), np.float16), 20).shape == (1, 0)
