"""The test that watches a mean: it keeps its level for as long as it runs, and notices a shift."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from rexit.errors import InputError
from rexit.upkeep.audit.betting import BETS, BOLDEST, Capital, LossTest, Tail, _start_capital
from running.fast import fast

LIMIT = 0.03


def capitals(streams: int, *phases: tuple[int, float], all_or_nothing: bool = False) -> NDArray[np.int64]:
    """After how many losses each of many independent tests alarms; 0: never. phases: number of losses, and their mean.

    All tests bet at once, with the arithmetic of `Capital`, which one of them is compared with."""
    bets = BOLDEST / LIMIT * 0.5 ** np.arange(BETS)[:, None]
    bettors, reserve, alarms_at, count, test = np.zeros((BETS, streams)), 1.0, np.zeros(streams, np.int64), 0, Capital(LIMIT)
    for seed, (losses, mean) in enumerate(phases):
        random = np.random.default_rng(seed)
        for _ in range(losses):
            count += 1
            x = random.random(streams) < mean if all_or_nothing else random.binomial(10, mean, streams) / 10
            start = _start_capital(count)
            reserve -= start
            bettors = np.minimum((bettors + start / BETS) * (1 + bets * (x - LIMIT)), 1e280)
            alarms_at[(alarms_at == 0) & (reserve + bettors.sum(0) >= 20)] = count
            test.add(float(x[0]))
    assert (test.alarm_at or 0) == alarms_at[0] and test.value == pytest.approx(reserve + bettors[:, 0].sum())
    return alarms_at


def test_all_starts_sum_to_1() -> None:
    """After a whole block of starts, exactly the later blocks' share is left."""
    for blocks in (1, 3, 12):
        assert math.fsum(map(_start_capital, range(1, 1 << blocks))) == pytest.approx(1 - 1 / (blocks + 1))


def test_capital_is_that_of_every_bettor_on_its_own() -> None:
    """Against the definition: each start and each bet by itself."""
    losses, test = np.random.default_rng(3).random(40) * 0.1, Capital(LIMIT)
    for n, loss in enumerate(losses, 1):
        test.add(float(loss))
        bettors = sum(
            _start_capital(s) / BETS * math.prod(1 + BOLDEST / LIMIT / 2**j * (x - LIMIT) for x in losses[s - 1 : n])
            for s in range(1, n + 1)
            for j in range(BETS)
        )
        assert test.value == pytest.approx(bettors + 1 - sum(map(_start_capital, range(1, n + 1))))


@pytest.mark.parametrize("losses", fast([1000, 100_000], 1000))
@pytest.mark.parametrize("all_or_nothing", [False, True])
def test_false_alarms_are_few(all_or_nothing: bool, losses: int) -> None:
    """In at most 5 % of 1,000 services whose mean loss is the limit itself, where alarms are most frequent."""
    assert np.count_nonzero(capitals(1000, (losses, LIMIT), all_or_nothing=all_or_nothing)) <= 50


@pytest.mark.parametrize(
    ("before", "mean", "delay"),
    fast([(500, 0.06, 200), (0, 0.06, 150), (10_000, 0.06, 300), (10_000, 0.04, 3000)], (500, 0.06, 200)),
)
def test_a_shift_is_noticed(before: int, mean: float, delay: int) -> None:
    """The median delay after a shift from 0.02."""
    alarms_at = capitals(200, (before, 0.02), (3 * delay, mean))
    assert np.count_nonzero((alarms_at > 0) & (alarms_at <= before)) <= 10
    assert np.median(np.where(alarms_at == 0, 3 * delay, alarms_at - before)) < delay


def test_an_alarm_stays() -> None:
    test = Capital(0.5)
    for _ in range(40):
        test.add(1.0)
    alarm = test.alarm_at
    assert alarm is not None and alarm < 40
    for _ in range(400):
        test.add(0.0)
    assert test.alarm_at == alarm and test.value < 20


def test_capital_never_overflows() -> None:
    test = Capital(0.001)
    for _ in range(500):
        test.add(1.0)
    assert np.isfinite(test.value)


@pytest.mark.parametrize(("limit", "level", "line"), [(0.0, 0.05, "limit 0"), (1.0, 0.05, "limit 1"), (0.5, 1.0, "level 1")])
def test_numbers_that_cannot_work(limit: float, level: float, line: str) -> None:
    with pytest.raises(InputError, match=f"{line}: expected a number above 0 and below 1"):
        Capital(limit, level)
    with pytest.raises(ValueError, match="expected 0 to 1"):
        Capital(0.5).add(1.5)


def test_a_mean_and_a_tail_share_the_level() -> None:
    alone, both = LossTest(0.1, None), LossTest(0.1, Tail(0.05, 0.2))
    assert both.of_tail is not None and alone.of_tail is None
    assert (alone.capital.level, both.capital.level, both.of_tail.level) == (0.05, 0.025, 0.025)
    assert (alone.alarm_capital, both.alarm_capital) == (20, 40)
    for test in (alone, both):
        assert (test.mean, test.share, test.alarm_at) == (None, 0, None)
        for loss in (0.1, 0.2, 0.3, 0.4):
            test.add(loss)
        assert test.mean == pytest.approx(0.25)
    assert (alone.share, both.share) == (0, 0.5)


def test_the_first_alarm_of_either_counts() -> None:
    """Everybody loses a little more than the tail's loss, which the mean's limit allows."""
    test = LossTest(0.5, Tail(0.05, 0.2))
    for _ in range(100):
        test.add(0.25)
    assert test.of_tail is not None and test.capital.alarm_at is None and test.alarm_at == test.of_tail.alarm_at is not None
