"""The rules of whole slates, against docs/format.md followed word by word, one candidate at a time."""

import itertools
import time
from collections.abc import Iterator, Sequence

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


def one(c: list[list[float]], quorum: int = 0, top_k: TopK | None = None) -> list[int]:
    """Exits of one slate that no threshold stops."""
    values = np.array(c, np.float32)
    stop = np.zeros(values.shape, np.bool_)
    stop[:, -1] = True
    return slate_stops(values, stop, np.array([0, len(c)]), quorum, top_k).tolist()


def test_top_k_by_hand() -> None:
    rule = TopK(1, False, (1.0,), (1.0,))
    assert one([[5, 0], [2, 0], [1, 0]], top_k=rule) == [0, 0, 0]  # nobody reaches the first
    assert one([[3, 0], [1, 0], [-4, 0]], top_k=rule) == [1, 1, 0]  # 3 - 1 = 1 + 1: the second may be above the first
    assert one([[3, 0], [1, 0], [0.999, 0]], top_k=rule) == [1, 1, 0]


def test_ordered_waits_for_ranks_inside_only() -> None:
    c = [[9, 0], [8, 0], [0, 0], [0, 0]]
    for ordered, expected in ((False, [0, 0, 0, 0]), (True, [1, 1, 0, 0])):
        assert one(c, top_k=TopK(2, ordered, (1.0,), (1.0,))) == expected


def test_more_places_than_candidates_stop_all_unless_ordered() -> None:
    c = [[0, 0], [0, 0]]
    assert one(c, top_k=TopK(2, False, (9.0,), (9.0,))) == [0, 0]
    assert one(c, top_k=TopK(2, True, (9.0,), (9.0,))) == [1, 1]


def test_a_quorum_is_a_count_whatever_the_slates_size() -> None:
    stop = np.zeros((13, 2), np.bool_)
    stop[:, 1] = stop[:7, 0] = True
    c, offsets = np.zeros((13, 2), np.float32), np.array([0, 10, 13])
    for quorum, expected in ((3, [0] * 13), (2, [0] * 7 + [1] * 6)):
        assert slate_stops(c, stop, offsets, quorum, None).tolist() == expected


def test_keep_by_hand() -> None:
    """Ties go to the earlier candidate; who has stopped takes no place."""
    c, offsets = np.zeros((5, 2), np.float32), np.array([0, 5])
    c[:, 0] = 1, 3, 2, 2, 9
    stop = np.zeros((5, 2), np.bool_)
    stop[:, 1] = stop[4, 0] = True
    assert slate_stops(c, stop, offsets, 0.0, None, keep=[2]).tolist() == [0, 1, 1, 0, 0]
    assert slate_stops(c, stop, offsets, 0.0, None, keep=[4]).tolist() == [1, 1, 1, 1, 0]


def random_policy(random: np.random.Generator, exits: int) -> Policy:
    rules = [
        ExitPolicy(
            *random.uniform((0.2, -1, 0.5, 0.5), (2, 1, 3, 3)).tolist(),
            tuple(random.uniform(-0.5, 0.5, k).tolist()),
            keep=int(random.choice([0, 0, 2, 5, 12])),
        )
        for k in range(exits - 1)
    ]
    rise, fall = (tuple(random.uniform(0, 0.6, exits - 1).tolist()) for _ in range(2))
    top_k = TopK(int(random.integers(1, 8)), bool(random.integers(2)), rise, fall) if random.random() < 0.8 else None
    return Policy((*rules, ExitPolicy()), int(random.integers(1, 4)), "d", int(random.choice([0, 1, 4])), top_k)


OFFSETS = np.array([0, 3, 4, 24, 40])


def test_exit_range_holds_every_answer_within_the_margin() -> None:
    random = np.random.default_rng(0)
    sizes = np.zeros(4)
    for _ in range(300):
        made = random_policy(random, 4)
        z = random.normal(0, 1, (40, 4)).astype(np.float32)
        earliest, latest = made.exit_range(z, 0.01, OFFSETS)
        sizes += [(latest - earliest == n).mean() / 300 for n in range(4)]
        for _ in range(20):
            stops = made.stops(z + random.uniform(-0.01, 0.01, z.shape).astype(np.float32), OFFSETS)
            assert ((earliest <= stops) & (stops <= latest)).all()
    assert sizes[0] > 0.3, "many candidates have one valid exit"


def test_exit_range_of_a_slate_with_a_candidate_at_a_border() -> None:
    """Who stops before the border's exit has one valid exit; who gets there has all that follow."""
    made = Policy((ExitPolicy(1, 0, 5, 5), ExitPolicy(1, 0, 1, 1), ExitPolicy(1, 0, 9, 9), ExitPolicy()), 1, "d", 1)
    z = np.float32([[6, 0, 0, 0], [1, 1.001, 0, 0], [2, 3, 0, 0], [0, 0, 0, 0]])
    earliest, latest = made.exit_range(z, 0.01, np.array([0, 4]))
    assert (earliest.tolist(), latest.tolist()) == ([0, 1, 1, 1], [0, 3, 3, 3])
    earliest, latest = made.exit_range(z, 0.0001, np.array([0, 4]))
    assert earliest.tolist() == latest.tolist() == made.stops(z, np.array([0, 4])).tolist() == [0, 1, 1, 1]


def test_exit_range_without_margin_is_the_answer() -> None:
    random = np.random.default_rng(1)
    for _ in range(100):
        made = random_policy(random, 4)
        z = np.round(random.normal(0, 1, (40, 4)) * 4).astype(np.float32) / 4
        for side in made.exit_range(z, 0.0, OFFSETS):
            np.testing.assert_array_equal(side, made.stops(z, OFFSETS))


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
