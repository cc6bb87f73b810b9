"""The rules of whole slates, against docs/format.md followed word by word, one candidate at a time."""

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from rexit.bundle import ExitPolicy, Policy, TopK, slate_stops


def by_the_book(
    c: NDArray[np.float32], candidate_stop: NDArray[np.bool_], quorum: int, top_k: TopK | None, keep: Sequence[int]
) -> list[int]:
    """One slate's exits."""
    n, exits = c.shape
    stopped: dict[int, int] = {}
    for k in range(exits - 1):
        stopped |= {i: k for i in range(n) if i not in stopped and candidate_stop[i, k]}
        if top_k is not None:
            at = [stopped.get(i, k) for i in range(n)]
            low = [c[i, at[i]] - np.float32(top_k.fall[at[i]]) for i in range(n)]
            high = [c[i, at[i]] + np.float32(top_k.rise[at[i]]) for i in range(n)]
            for i in range(n):
                above = sum(high[j] >= low[i] for j in range(n) if j != i)
                surely = sum(low[j] > high[i] for j in range(n) if j != i)
                inside = above < top_k.k and (not top_k.ordered or above == surely)
                if i not in stopped and (surely >= top_k.k or inside):
                    stopped[i] = k
        left = sorted((i for i in range(n) if i not in stopped), key=lambda i: (-c[i, k], i))
        stopped |= {i: k for i in left[keep[k] :] if keep[k]}
        if n - len(stopped) <= quorum:
            stopped |= {i: k for i in range(n) if i not in stopped}
    return [stopped.get(i, exits - 1) for i in range(n)]


def cases(
    count: int, seed: int
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.int64], int, TopK | None, list[int]]]:
    """Random slates of different sizes; c on a coarse grid, with bounds on the same grid, so that ends of intervals tie."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        exits = int(random.integers(1, 6))
        sizes = random.integers(1, 9, 5)
        n = int(sizes.sum())
        step = random.choice([0.0, 0.25])
        c = random.normal(0, 1, (n, exits))
        move = random.uniform(0, 1, (2, exits - 1)) * random.integers(0, 2, (2, exits - 1))
        if step:
            c, move = np.round(c / step) * step, np.round(move / step) * step
        stop = random.random((n, exits)) < random.choice([0.0, 0.2, 0.6])
        stop[:, -1] = True
        rise, fall = (tuple(float(x) for x in side) for side in move)
        top_k = TopK(int(random.integers(1, 10)), bool(random.integers(2)), rise, fall) if random.random() < 0.8 else None
        quorum = int(random.choice([0, 1, 2, 4, 9]))
        keep = (random.integers(1, 8, exits - 1) * (random.random(exits - 1) < random.choice([0.0, 0.0, 0.7]))).tolist()
        yield c.astype(np.float32), stop, np.concatenate([[0], sizes.cumsum()]), quorum, top_k, keep


@pytest.mark.parametrize("seed", range(5))
def test_as_the_book_says(seed: int) -> None:
    early = {"quorum": 0, "top_k": 0, "ordered": 0, "keep": 0}
    for c, stop, offsets, quorum, top_k, keep in cases(400, seed):
        stops = slate_stops(c, stop, offsets, quorum, top_k, keep=keep)
        slates = [slice(a, b) for a, b in itertools.pairwise(offsets)]
        expected = [k for part in slates for k in by_the_book(c[part], stop[part], quorum, top_k, keep)]
        assert stops.tolist() == expected
        kind = "keep" if any(keep) else "quorum" if top_k is None else "ordered" if top_k.ordered else "top_k"
        early[kind] += int((stops < stop.argmax(1)).sum())
    assert min(early.values()) > 20, "rules that stop nobody are not tested"


def random_policy(random: np.random.Generator, slate_rules: bool) -> Policy:
    """Four exits, of which the last has no rule. slate_rules: with a quorum, a top-k rule or limits of what goes on."""
    exits = [
        ExitPolicy(
            *random.uniform((0.2, -1, 0.5, 0.5), (2, 1, 3, 3)).tolist(),
            tuple(random.uniform(-0.5, 0.5, k).tolist()),
            keep=int(random.choice([0, 0, 2, 5, 12])) if slate_rules else 0,
        )
        for k in range(3)
    ]
    policy = Policy((*exits, ExitPolicy()), int(random.integers(1, 4)), "d")
    if not slate_rules:
        return policy
    rise, fall = (tuple(random.uniform(0, 0.6, 3).tolist()) for _ in range(2))
    top_k = TopK(int(random.integers(1, 8)), bool(random.integers(2)), rise, fall) if random.random() < 0.8 else None
    return replace(policy, quorum=int(random.choice([0, 1, 4])), top_k=top_k)


OFFSETS = np.array([0, 3, 4, 24, 40])


@pytest.mark.parametrize(("slate_rules", "margin", "certain"), [(False, 0.05, 0.9), (True, 0.01, 0.7)])
def test_exit_range_holds_every_answer_within_the_margin_and_little_else(
    slate_rules: bool, margin: float, certain: float
) -> None:
    """certain: the least share of candidates that have one valid exit."""
    random, single = np.random.default_rng(0), []
    for _ in range(150):
        policy = random_policy(random, slate_rules)
        z = random.normal(0, 1, (40, 4)).astype(np.float32)
        earliest, latest = policy.exit_range(z, margin, OFFSETS)
        single.append((earliest == latest).mean())
        for _ in range(20):
            stops = policy.stops(z + random.uniform(-margin, margin, z.shape).astype(np.float32), OFFSETS)
            assert ((earliest <= stops) & (stops <= latest)).all()
    assert np.mean(single) > certain


def test_exit_range_of_a_slate_with_a_candidate_at_a_border() -> None:
    """Who stops before the border's exit has one valid exit; who gets there has all that follow."""
    made = Policy((ExitPolicy(1, 0, 5, 5), ExitPolicy(1, 0, 1, 1), ExitPolicy(1, 0, 9, 9), ExitPolicy()), 1, "d", 1)
    z = np.float32([[6, 0, 0, 0], [1, 1.001, 0, 0], [2, 3, 0, 0], [0, 0, 0, 0]])
    earliest, latest = made.exit_range(z, 0.01, np.array([0, 4]))
    assert (earliest.tolist(), latest.tolist()) == ([0, 1, 1, 1], [0, 3, 3, 3])
    earliest, latest = made.exit_range(z, 0.0001, np.array([0, 4]))
    assert earliest.tolist() == latest.tolist() == made.stops(z, np.array([0, 4])).tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize("slate_rules", [False, True])
def test_exit_range_without_margin_is_the_answer(slate_rules: bool) -> None:
    random = np.random.default_rng(1)
    for _ in range(100):
        policy = random_policy(random, slate_rules)
        z = np.round(random.normal(0, 1, (40, 4)) * 4).astype(np.float32) / 4
        for side in policy.exit_range(z, 0.0, OFFSETS):
            np.testing.assert_array_equal(side, policy.stops(z, OFFSETS))


def test_a_hundred_thousand_pairs_in_time() -> None:
    random = np.random.default_rng(0)
    n, exits = 100_000, 30
    c = random.normal(0, 1.5, (n, exits)).astype(np.float32)
    stop = np.abs(c) > 2.5
    stop[:, -1] = True
    bounds = tuple(np.linspace(2, 0.1, exits - 1).tolist())
    for quorum, top_k, keep, most in (
        (2, None, 0, 0.1),
        (2, None, 12, 3.0),
        (2, TopK(5, False, bounds, bounds), 0, 3.0),
        (2, TopK(5, True, bounds, bounds), 0, 3.0),
    ):
        begin = time.process_time()
        slate_stops(c, stop, np.arange(0, n + 1, 20), quorum, top_k, keep=[keep] * (exits - 1))
        assert time.process_time() - begin < most
