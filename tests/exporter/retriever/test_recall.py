import numpy as np
import pytest
import torch

from rexit.exporter.retriever import lightgcn
from rexit.exporter.retriever.lightgcn import Recall


def edges(*pairs: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    array = np.array(pairs, np.int64).reshape(-1, 2)
    return array[:, 0], array[:, 1]


def test_by_hand() -> None:
    # User 0 wants 1 and 2 (3 was seen in training), user 2 wants 0; user 1 wants nothing and does not count.
    judge = Recall(edges((0, 3), (1, 0)), edges((0, 1), (0, 2), (0, 3), (2, 0)), 4)
    scores = torch.tensor([[0.1, 0.5, 0.2, 0.9], [0, 0, 0, 0], [0.1, 0.9, 0.8, 0.7]])
    assert judge.at(1, lambda rows: scores[rows]) == pytest.approx((1 / 2 + 0) / 2)
    assert judge.at(2, lambda rows: scores[rows]) == pytest.approx((2 / 2 + 0) / 2)
    assert judge.at(20, lambda rows: scores[rows]) == pytest.approx(1.0)


def test_nothing_to_find() -> None:
    assert Recall(edges((0, 1)), edges((0, 1)), 2).at(20, lambda rows: torch.zeros(len(rows), 2)) is None


def test_whoever_saw_all_they_want_does_not_count_and_moves_no_one_else_s_seen_items() -> None:
    # User 1, between the two that are judged, has seen what they want and much else.
    excluded = edges((0, 1), (1, 0), (1, 2), (1, 3), (2, 2))
    judge = Recall(excluded, edges((0, 0), (1, 2), (2, 3)), 4)
    assert judge.users.tolist() == [0, 2]
    scores = torch.tensor([[0.3, 0.9, 0.2, 0.1], [0, 0, 0, 0], [0.1, 0.2, 0.9, 0.8]])
    assert judge.at(1, lambda rows: scores[rows]) == pytest.approx(1.0)


def test_of_many_users_the_same_sample_is_judged_and_scores_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    users, items = 400, 30
    targets = np.repeat(np.arange(users), 2), random.integers(0, items, 2 * users)
    scores = torch.from_numpy(random.random((users, items)))
    chunks: list[torch.Tensor] = []

    def scores_of(rows: torch.Tensor) -> torch.Tensor:
        chunks.append(rows)
        return scores[rows]

    def judged() -> tuple[float | None, list[int]]:
        chunks.clear()
        return Recall(edges((0, 3), (9, 1)), targets, items).at(5, scores_of), torch.cat(chunks).tolist()

    whole, all_users = judged()
    monkeypatch.setattr(lightgcn, "SCORES", 10 * items)
    assert judged() == (pytest.approx(whole), all_users) and max(map(len, chunks)) == 10
    monkeypatch.setattr(lightgcn, "SAMPLE", 200)
    sampled, some = judged()
    assert judged() == (sampled, some) and len(some) == 200 and set(some) < set(all_users)
    assert sampled == pytest.approx(whole, abs=0.1)
