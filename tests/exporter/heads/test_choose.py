"""Exits are the depths with the least area under loss against cost."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from rexit.errors import InputError
from rexit.exporter.heads.layers import best_curve, check_choice, choose_exits, last_exit

PRIOR = 0.7


def area(exits: tuple[int, ...], losses: list[float]) -> float:
    loss = [PRIOR, *(losses[depth - 1] for depth in exits)]
    edges = [0, *exits, len(losses)]
    return sum(loss[n] * (edges[n + 1] - edges[n]) for n in range(len(loss)))


@pytest.mark.parametrize("most", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", range(8))
def test_curve_is_the_best_of_all(most: int, seed: int) -> None:
    losses = np.sort(np.random.default_rng(seed).uniform(0.5, 0.69, 8))[::-1].tolist()
    ways = [(*part, 8) for n in range(most) for part in itertools.combinations(range(1, 8), n)]
    assert area(tuple(best_curve(losses, PRIOR, most)), losses) == pytest.approx(min(area(way, losses) for way in ways))


def test_depth_that_is_no_better_than_a_shallower_one_is_no_exit() -> None:
    assert best_curve([0.6, 0.65, 0.62, 0.5], PRIOR, 4) == [1, 4]


def test_auto_ends_before_the_last_layer_where_depth_pays_nothing() -> None:
    users = np.random.default_rng(0).normal(0, 0.05, 50)
    losses = np.array([0.65, 0.60, 0.55, 0.551, 0.58])[:, None] + users
    losses[3] = losses[2] + 0.01 * np.random.default_rng(1).normal(size=50)
    assert last_exit(losses) == 3
    assert choose_exits("auto:2", losses, PRIOR, whole=False)[-1] == 3
    assert choose_exits("auto:2", losses, PRIOR, whole=True)[-1] == 5


def test_end_is_the_shallowest_within_one_standard_error() -> None:
    noise = np.random.default_rng(0).normal(0, 1, 100)
    noise = (noise - noise.mean()) / noise.std()
    best = np.full(100, 0.5)
    for gap, end in ((0.9, 1), (1.1, 2)):  # in standard errors
        assert last_exit(np.stack([best + 0.1 * noise + gap * 0.1 / 10, best])) == end


def test_a_deeper_end_where_only_that_ranks() -> None:
    """Few likes: log loss does not tell the second depth from the third, NDCG does."""
    noise = np.random.default_rng(0).normal(0, 0.1, (4, 100))
    losses = np.array([0.3, 0.2, 0.2, 0.2])[:, None] + noise
    misranked = np.array([0.5, 0.4, 0.2, 0.2])[:, None] + noise[::-1]
    assert last_exit(losses) < 3 and last_exit(misranked) == 3
    assert choose_exits("auto:4", losses, PRIOR, False, misranked)[-1] == 3
    assert choose_exits("auto:4", losses, PRIOR, False, misranked[:, :0])[-1] == last_exit(losses)


def test_list_is_taken_as_it_is() -> None:
    assert choose_exits("2,5", np.ones((6, 3)), PRIOR, whole=False) == [2, 5]


def test_more_exits_than_layers_are_the_layers_that_help() -> None:
    check_choice("auto:5", 2, keep_last=False)
    assert choose_exits("auto:5", np.array([[0.5] * 3, [0.4] * 3]), PRIOR, whole=True) == [1, 2]


def test_list_without_the_last_answer_that_is_to_stay() -> None:
    check_choice("2,4", 4, keep_last=True)
    with pytest.raises(InputError, match="--exits 2,3 with --keep-last: the model's last answer is after layer 4"):
        check_choice("2,3", 4, keep_last=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("auto:0", "expected auto:K or depths in layers"),
        ("auto", "expected auto:K or depths in layers"),
        ("2,x", "expected auto:K or depths in layers"),
        ("2,2", "depths must ascend"),
        ("2,9", "exit 9 is beyond the model's 4 layers"),
    ],
)
def test_choice_that_no_model_can_have(text: str, message: str) -> None:
    with pytest.raises(InputError) as refused:
        check_choice(text, 4, keep_last=False)
    assert message in str(refused.value) and "\n" not in str(refused.value)
