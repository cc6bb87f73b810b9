"""Where the library stops candidates, against docs/format/policy.md followed word by word."""

import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from oracles.by_the_book import by_the_book
from rexit.format.bundle import ExitPolicy, Policy, TopK


def cases(count: int, seed: int) -> Iterator[tuple[Policy, NDArray[np.float32], NDArray[np.int64]]]:
    """Random slates of different sizes; log-odds on a coarse grid, with bounds on the same grid, so that ends tie."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        exits = int(random.integers(1, 6))
        sizes = random.integers(1, 9, 5)
        n = int(sizes.sum())
        step = random.choice([0.0, 0.25])
        z = random.normal(0, 1, (n, exits))
        move = random.uniform(0, 1, (2, exits - 1)) * random.integers(0, 2, (2, exits - 1))
        limits = random.choice([math.inf, math.inf, 0.5, 1.0, 2.0], (2, exits))
        if step:
            z, move = np.round(z / step) * step, np.round(move / step) * step
        rise, fall = (tuple(float(x) for x in side) for side in move)
        top_k = TopK(int(random.integers(1, 10)), bool(random.integers(2)), rise, fall) if random.random() < 0.8 else None
        quorum = int(random.choice([0, 1, 2, 4, 9]))
        keep = [*random.integers(1, 8, exits - 1) * (random.random(exits - 1) < random.choice([0.0, 0.0, 0.7])), 0]
        reads_earlier = random.random() < 0.3
        rules = tuple(
            ExitPolicy(
                *(random.uniform((0.2, -1), (2, 1)).tolist() if reads_earlier else (1.0, 0.0)),
                float(limits[0, k]),
                float(limits[1, k]),
                tuple(random.uniform(-0.5, 0.5, k).tolist()) if reads_earlier else (),
                keep=int(keep[k]),
            )
            for k in range(exits)
        )
        policy = Policy(rules, int(random.integers(1, 4)), "d", quorum, top_k)
        yield policy, z.astype(np.float32), np.concatenate([[0], sizes.cumsum()])


@pytest.mark.medium
@pytest.mark.parametrize("seed", range(5))
def test_as_the_book_says(seed: int) -> None:
    early = {"quorum": 0, "top_k": 0, "ordered": 0, "keep": 0}
    for policy, z, offsets in cases(400, seed):
        stops = policy.stops(z, offsets)
        books = [by_the_book(policy, z[a:b]) for a, b in itertools.pairwise(offsets)]
        assert stops.tolist() == [exit for exits, _ in books for exit in exits]
        np.testing.assert_array_equal(policy.calibrated(z), np.concatenate([c for _, c in books]))
        rule = policy.top_k
        kind = "keep" if any(policy.keep) else "quorum" if rule is None else "ordered" if rule.ordered else "top_k"
        alone = replace(policy, quorum=0, top_k=None, exits=tuple(replace(e, keep=0) for e in policy.exits))
        early[kind] += int((stops < alone.stops(z, offsets)).sum())
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
    z = random.normal(0, 1.5, (n, exits)).astype(np.float32)
    bounds = tuple(np.linspace(2, 0.1, exits - 1).tolist())
    for top_k, keep in ((None, 0), (None, 12), (TopK(5, False, bounds, bounds), 0), (TopK(5, True, bounds, bounds), 0)):
        rules = (*[ExitPolicy(1, 0, 2.5, 2.5, keep=keep)] * (exits - 1), ExitPolicy())
        begin = time.process_time()
        Policy(rules, 1, "d", 2, top_k).stops(z, np.arange(0, n + 1, 20))
        assert time.process_time() - begin < 2
