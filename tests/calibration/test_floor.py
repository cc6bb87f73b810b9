"""The floor: what it promises holds in so many calibrations as it says, and there is none where nothing separates."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from rexit.calibration.floor import answers, find_floor, highest_floor, losses
from rexit.calibration.traces import Traces
from rexit.format.bundle import ExitPolicy, Policy

SIZE = 20
POLICY = Policy((ExitPolicy(upper=2.0, lower=3.0), ExitPolicy()), 1, "0" * 64)


def queries(count: int, random: np.random.Generator, separation: float = 3.0) -> Traces:
    """Queries with one to three relevant candidates, a few with none. Some queries are hard: all their relevant ones are low."""
    relevant = np.where(random.random(count) < 0.05, 0, random.integers(1, 4, count))
    liked = np.arange(SIZE) < relevant[:, None]
    hard = np.where(random.random(count) < 0.1, 0.2, 1.0)
    z = random.normal(size=(count, SIZE)) - 2 + separation * hard[:, None] * liked
    log_odds = np.stack([z + random.normal(size=z.shape), z], -1).astype(np.float32).reshape(-1, 2)
    users = np.repeat(np.arange(count), SIZE)
    return Traces(log_odds, liked.ravel(), users, np.arange(0, count * SIZE + 1, SIZE), tuple(range(count)))


class World:
    """A population: what is true of a floor."""

    def __init__(self, traces: Traces) -> None:
        self.traces, self.c = traces, answers(POLICY, traces)

    def recall(self, floor: float | None) -> float:
        return 1 - float(losses(self.traces, self.c, -np.inf if floor is None else floor).mean())


def drawn(random: np.random.Generator, level: float = 0.2) -> float | None:
    choosing, certifying = queries(100, random), queries(250, random)
    proposed_by = answers(POLICY, choosing)[choosing.liked]
    return highest_floor(proposed_by, certifying, answers(POLICY, certifying), 0.1, level)


@pytest.mark.medium
def test_the_promise_holds_as_often_as_it_says() -> None:
    """200 calibrations with a confidence of 80 %: the share of wrong floors is at most 20 %, and floors leave much out. The
    quantile of the certifying users' own losses, which promises nothing, is wrong far more often."""
    random, world = np.random.default_rng(0), World(queries(10_000, np.random.default_rng(1)))
    floors, naive = [drawn(random) for _ in range(200)], []
    wrong = np.mean([world.recall(floor) < 0.9 for floor in floors])
    assert 0 < wrong <= 0.2 and np.mean([floor is not None for floor in floors]) > 0.99
    for _ in range(100):
        traces = queries(250, random)
        c = answers(POLICY, traces)
        grid = np.linspace(-4, 2, 200)
        naive.append(max(floor for floor in grid if losses(traces, c, floor).mean() <= 0.1))
    assert np.mean([world.recall(floor) < 0.9 for floor in naive]) > 0.35


@pytest.mark.medium
def test_it_holds_for_a_policy_that_the_same_users_chose() -> None:
    """The worst of five policies: each has a fifth of the level."""
    random, world = np.random.default_rng(2), World(queries(10_000, np.random.default_rng(3)))
    worst = [max(drawn(random, 0.2 / 5) or -np.inf for _ in range(5)) for _ in range(60)]
    assert np.mean([world.recall(floor) < 0.9 for floor in worst]) <= 0.2


@pytest.mark.parametrize(
    ("counts", "separation", "c", "left_out"),
    [((200, 400, 400), 3.0, True, True), ((200, 400, 50), 0.0, False, True), ((20, 20, 50), 3.0, False, False)],
    ids=["separated", "overlapping", "too few"],
)
def test_there_is_a_floor_or_a_reason(counts: tuple[int, int, int], separation: float, c: bool, left_out: bool) -> None:
    random = np.random.default_rng(4)
    parts = [queries(n, random, separation) for n in counts]
    floor = find_floor(POLICY, *parts, recall=0.9, confidence=0.95)
    assert (floor.c is not None, floor.left_out is not None) == (c, left_out) and floor.users <= counts[1]
    if floor.c is None:
        assert floor.test is None and (floor.left_out or 0) <= 0.1 and (floor.users < floor.needed) == (not left_out)
    else:
        assert floor.test is not None and floor.test[1] < World(parts[2]).recall(floor.c) == pytest.approx(floor.test[0])
        assert floor.test_left_out is not None and floor.test_left_out > 0.3


def test_users_are_the_unit_whatever_their_slates() -> None:
    liked = np.array([1, 1, 0, 1, 0, 0, 1, 0], np.bool_)
    users, offsets = np.array([0, 0, 0, 1, 1, 2, 0, 0]), np.array([0, 3, 5, 6, 8])
    traces = Traces(np.zeros((8, 1), np.float32), liked, users, offsets, ("a", "b", "c"))
    c: NDArray[np.float32] = np.array([-1, 2, -9, -1, 3, -9, 1, -9], np.float32)
    assert losses(traces, c, 0.0).tolist() == [1 / 3, 1.0] and losses(traces, c, -1.0).tolist() == [0.0, 0.0]
