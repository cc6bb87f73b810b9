"""The guarantee, by simulation: it is broken no more often than promised, and would be if users who chose also certified."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Collection

import numpy as np
import pytest

from rexit.calibration.certify import (
    fixed_sequence,
    guarantee,
    p_value,
    share_interval,
    tail_p_value,
    tail_users_needed,
    users_needed,
)
from rexit.calibration.metrics import Judge, parse
from rexit.errors import InputError
from rexit.upkeep.audit.betting import Tail
from running.fast import fast

LEVEL = 0.05
CALIBRATIONS = 2000
SLACK = 3 * math.sqrt(LEVEL * (1 - LEVEL) / CALIBRATIONS)
"""Three standard deviations of a share that is LEVEL."""
NDCG = parse("ndcg@3")


ALIKE = (1.0,) * 30
"""Policies that err alike on average, but on different users."""
BOLDER = (0.2, 0.4, 0.6, 0.8, 1.0, 1.2)


@functools.cache
def population(noise: tuple[float, ...]) -> np.ndarray:
    """What each of 20,000 users loses in NDCG@3 by policies whose scores are full depth's plus so much noise: float64
    [policies, users]. Users are drawn from it, so that a row's mean is the true expected loss."""
    random = np.random.default_rng(0)
    users = np.repeat(np.arange(20_000), 10)
    full = random.normal(0, 1.5, len(users))
    liked = random.random(len(users)) < 1 / (1 + np.exp(-full))
    liked[::10], liked[1::10] = True, False  # everybody has both labels
    judge = Judge(users, liked, np.arange(0, len(users) + 1, 10), full.astype(np.float32))
    early = [(full + size * random.normal(0, 1, len(users))).astype(np.float32) for size in noise]
    return np.stack([judge.losses(NDCG, score) for score in early])


Calibrate = Callable[[np.ndarray, np.ndarray, float], Collection[int]]
"""From the losses of two halves of the users, float64 [policies, 300] each, and the limit to the policies certified."""


def violated(calibrate: Calibrate, noise: tuple[float, ...] = ALIKE, good: int = 0) -> float:
    """The share of calibrations that certify a policy whose expected loss is above the limit. The limit is such that `good` of
    the policies are below it and the next one is above it by nothing: the worst there is."""
    losses, random = population(noise), np.random.default_rng(1)
    risks = losses.mean(1)
    limit = np.sort(risks)[good] * (1 - 1e-9)
    halves = (losses[:, random.integers(0, losses.shape[1], 600)] for _ in range(CALIBRATIONS))
    return float(np.mean([any(risks[k] > limit for k in calibrate(h[:, :300], h[:, 300:], limit)) for h in halves]))


def passes(losses: np.ndarray, limit: float) -> bool:
    return p_value(losses, (-1, 1), limit) <= LEVEL


def choose(losses: np.ndarray) -> int:
    """The policy that loses least on these users."""
    return int(losses.mean(1).argmin())


@pytest.mark.medium
def test_a_promise_holds_by_users_who_did_not_choose_alone() -> None:
    """A bad policy is certified no more often than promised; by the users who chose it would be."""

    def certified(chose: np.ndarray, certify: np.ndarray, limit: float) -> list[int]:
        chosen = choose(chose)
        return [chosen] if passes(certify[chosen], limit) else []

    assert 0.01 < violated(certified) <= LEVEL + SLACK
    assert violated(lambda chose, unseen, limit: certified(chose, chose, limit)) > 3 * LEVEL


def in_order(chose: np.ndarray, unseen: np.ndarray, limit: float) -> list[int]:
    """Certifies policies from the one that lost least on."""
    order = np.argsort(chose.mean(1))
    certified = fixed_sequence([p_value(unseen[k], (-1, 1), limit) for k in order], LEVEL)
    return order[:certified].tolist()


@pytest.mark.medium
@pytest.mark.parametrize(("noise", "good"), [(BOLDER, 3), *fast([(BOLDER, 5), (ALIKE[:8], 0)])])
def test_several_policies_may_be_tried_in_a_fixed_order(noise: tuple[float, ...], good: int) -> None:
    assert 0.01 < violated(in_order, noise, good) <= LEVEL + SLACK


@pytest.mark.slow
def test_trying_policies_after_one_has_failed_would_break_the_promise() -> None:
    assert violated(lambda chose, unseen, limit: [k for k, losses in enumerate(unseen) if passes(losses, limit)]) > 3 * LEVEL


def test_a_sequence_ends_at_the_first_that_fails() -> None:
    assert fixed_sequence([0.01, 0.05, 0.06, 0.001], 0.05) == 2
    assert fixed_sequence([0.06, 0.001], 0.05) == fixed_sequence([], 0.05) == fixed_sequence([math.nan, 0.001], 0.05) == 0
    assert fixed_sequence([0.01, 0.01], 0.05) == 2


def both_ways(random: np.random.Generator, n: int) -> np.ndarray:
    return np.where(random.random(n) < 0.505, 1.0, -1.0)


def mostly_nothing(random: np.random.Generator, n: int) -> np.ndarray:
    return np.where(random.random(n) < 0.8, 0.0, random.normal(0.05, 0.1, n).clip(-0.4, 0.5))


def rare_disaster(random: np.random.Generator, n: int) -> np.ndarray:
    """Nearly everybody gains a little: what a method that trusts the spread it has seen falls for."""
    return np.where(random.random(n) < 0.02, 1.0, -0.01 / 0.98)


def hardly_any_spread(random: np.random.Generator, n: int) -> np.ndarray:
    return 0.01 + random.uniform(-1e-3, 1e-3, n)


@pytest.mark.medium
@pytest.mark.parametrize("n", fast([50, 1000], 50))
@pytest.mark.parametrize("losses", [both_ways, mostly_nothing, rare_disaster, hardly_any_spread])
def test_p_values_are_small_no_more_often_than_they_say(losses: Callable[[np.random.Generator, int], np.ndarray], n: int) -> None:
    """At an expected loss of just the limit, the worst there is; a p-value is at most u with a chance of at most u."""
    random = np.random.default_rng(2)
    p_values = np.array([p_value(losses(random, n), (-1, 1), 0.01) for _ in range(CALIBRATIONS)])
    for u in (0.01, 0.05, 0.1, 0.3):
        assert np.mean(p_values <= u) <= u + 3 * math.sqrt(u * (1 - u) / CALIBRATIONS)


def typical(random: np.random.Generator, n: int) -> np.ndarray:
    """Seven in ten lose nothing; mean 0.002, standard deviation 0.06."""
    return np.where(random.random(n) < 0.7, 0.0, 0.002 / 0.3 + random.normal(0, 0.06 / math.sqrt(0.3), n)).clip(-1, 1)


@pytest.mark.parametrize("n", [19, 100, 600])
def test_a_tail_is_certified_wrongly_no_more_often_than_promised(n: int) -> None:
    """At a share of just what is allowed; a loss that equals the limit is not above it."""
    random = np.random.default_rng(5)
    much = random.binomial(n, 0.2, CALIBRATIONS)
    wrong = [tail_p_value(np.repeat([0.3, 0.1 + 0.2], [k, n - k]) + 0.1 * (np.arange(n) < k), 0.2, 0.3) <= LEVEL for k in much]
    assert 0.01 < np.mean(wrong) <= LEVEL + SLACK
    assert tail_p_value(np.array([]), 0.2, 0.3) == 1


@pytest.mark.parametrize(("observed", "share"), [(0.02, 0.05), (0.1, 0.2), (0.0, 0.05)])
def test_about_as_many_users_certify_a_tail_as_it_says(observed: float, share: float) -> None:
    needed = int(tail_users_needed(observed, share))
    much = np.random.default_rng(6).binomial(needed, observed, 500)
    certified = np.mean([tail_p_value((np.arange(needed) < k).astype(float), share, 0.5) <= LEVEL for k in much])
    assert 0.7 < certified < 0.92 or (observed == 0 and certified == 1)
    assert tail_users_needed(share, share) == math.inf == tail_users_needed(share - 1e-9, share)


def test_the_interval_of_a_share_is_exact() -> None:
    assert share_interval(0, 10) == pytest.approx((0, 1 - 0.1**0.1)) and share_interval(10, 10)[1] == 1
    low, high = share_interval(3, 20)
    assert tail_p_value((np.arange(20) < 3).astype(float), high, 0.5) == pytest.approx(0.1)
    assert tail_p_value((np.arange(20) < 17).astype(float), 1 - low, 0.5) == pytest.approx(0.1)


def test_a_good_policy_is_certified_by_a_thousand_users() -> None:
    random = np.random.default_rng(3)
    assert np.mean([passes(typical(random, 1000), 0.01) for _ in range(200)]) > 0.9


def test_the_order_that_users_come_in_does_not_hide_a_trend() -> None:
    """Users sorted by what they lose, the luckiest first, would let capital grow before the losses come."""
    losses = np.sort(np.r_[np.full(300, -0.2), np.full(300, 0.24)])
    assert not passes(losses, 0.01)


def test_without_users_nothing_is_certified() -> None:
    assert p_value(np.array([]), (-1, 1), 0.01) == 1


@pytest.mark.parametrize("limit", [0.0, 1.0, -0.1, 1.5, math.nan])
def test_a_limit_that_means_nothing(limit: float) -> None:
    with pytest.raises(InputError, match=f"limit {limit:g}: expected a loss above 0 and below 1"):
        p_value(np.zeros(3), (0, 1), limit)


@pytest.mark.parametrize("level", [0.0, 1.0, -0.05, 95.0, math.nan])
def test_a_level_that_is_no_chance(level: float) -> None:
    for ask in (p_value, users_needed):
        with pytest.raises(InputError, match=f"level {level:g}: expected a number above 0 and below 1"):
            ask(np.zeros(3), (0, 1), 0.1, level)


@pytest.mark.parametrize("bad", [-0.1, 1.1, math.nan])
def test_losses_out_of_bounds_are_a_mistake(bad: float) -> None:
    with pytest.raises(ValueError, match="losses from"):
        p_value(np.array([0.0, bad]), (0, 1), 0.1)


@pytest.mark.parametrize(
    ("bounds", "limit", "losses"),
    [
        ((-1, 1), 0.01, typical),
        ((-1, 1), 0.02, typical),
        ((0, 1), 0.1, lambda random, n: random.binomial(5, 0.07, n) / 5),
        ((0, 1), 0.02, lambda random, n: (random.random(n) < 0.01).astype(float)),
    ],
)
def test_about_as_many_users_are_needed_as_it_says(
    bounds: tuple[float, float], limit: float, losses: Callable[[np.random.Generator, int], np.ndarray]
) -> None:
    random = np.random.default_rng(4)
    needed = int(users_needed(losses(random, 20_000), bounds, limit))
    share = np.mean([p_value(losses(random, needed), bounds, limit) <= LEVEL for _ in range(300)])
    assert 0.65 < share < 0.95


def test_no_number_of_users_certifies_what_loses_too_much() -> None:
    assert users_needed(np.array([0.0, 0.02]), (-1, 1), 0.01) == math.inf
    assert users_needed(np.array([0.0, 0.02 - 1e-12]), (-1, 1), 0.01) == math.inf, "below the limit, but not by anything"


def test_users_who_all_lose_nothing_have_no_spread() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        needed = int(users_needed(np.zeros(50), (-1, 1), 0.01))
        fewer, more = (p_value(np.zeros(int(share * needed)), (-1, 1), 0.01) for share in (0.95, 1.05))
        assert more <= LEVEL < fewer
        gaining = users_needed(np.full(50, -0.0025), (-1, 1), 0.01)
    assert gaining < 299 <= needed, "docs/calibration.md: fewer than 299 are enough where users gain alone"


def test_guarantee_names_what_is_promised() -> None:
    assert guarantee({NDCG: 0.01}, {"ndcg@3": 1943}) == (
        "With 95 % confidence, users like these lose on average at most 0.01 of NDCG@3 against the full model: tested on 1,943 "
        "users who had no part in choosing the policy or its heads."
    )
    both = guarantee({NDCG: 0.01, parse("agreement"): 0.05}, {"ndcg@3": 80, "agreement": 90}, level=0.1)
    assert "against the full model, and at most 5 % of" in guarantee({NDCG: 0.01}, {"ndcg@3": 9}, tail=Tail(0.05, 0.1).sentence())
    assert both.startswith("With 90 % confidence, users like these lose on average at most 0.01 of NDCG@3 and 0.05 of agreement")
    assert "tested on 80 users (NDCG@3) and 90 users (agreement) who" in both
