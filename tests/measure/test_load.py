"""Latency counts from arrival, whatever the queue: on a clock that only moves when told to."""

import threading
import time

import numpy as np
import pytest

from rexit.measure.load import closed_loop, open_loop, poisson


class Clock:
    """Seconds that pass in sleep and in work alone."""

    def __init__(self) -> None:
        self.time = 100.0
        self.slept: list[float] = []

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds

    def work(self, seconds: float):
        def worker(i: int) -> None:
            self.time += seconds

        return worker


def test_a_slow_answer_delays_those_behind_it() -> None:
    clock = Clock()
    served = open_loop([clock.work(2)], np.array([0.0, 1, 1.5, 10]), clock.now, clock.sleep)
    assert served.begun.tolist() == [0, 2, 4, 10]
    assert served.answered.tolist() == [2, 4, 6, 12]
    assert served.latency.tolist() == [2, 3, 4.5, 2]
    assert served.waiting.tolist() == [0, 1, 2.5, 0]


def test_a_sleep_that_ends_early_is_slept_again() -> None:
    clock = Clock()
    served = open_loop([clock.work(1)], np.array([4.0]), clock.now, lambda seconds: clock.sleep(min(seconds, 1.5)))
    assert clock.slept == [1.5, 1.5, 1.0] and served.latency.tolist() == [1]


def test_throughput_of_a_busy_worker() -> None:
    clock = Clock()
    assert closed_loop([clock.work(0.25)], 8, clock.now) == pytest.approx(4)


def test_each_request_is_served_once_by_workers_at_the_same_time() -> None:
    seen: list[int] = []
    both = threading.Barrier(2, timeout=10)  # breaks unless two workers are inside together

    def worker(i: int) -> None:
        if i < 2:
            both.wait()
        seen.append(i)

    served = open_loop([worker, worker], np.zeros(20))
    assert sorted(seen) == list(range(20)) and (served.answered >= served.begun).all() and (served.waiting >= 0).all()


def test_poisson_arrivals() -> None:
    times = poisson(4.0, 20_000, np.random.default_rng(0))
    gaps = np.diff(times, prepend=0.0)
    assert (gaps > 0).all() and gaps.mean() == pytest.approx(0.25, rel=0.03) and gaps.std() == pytest.approx(0.25, rel=0.03)
    assert poisson(4.0, 3, np.random.default_rng(1)).tolist() == poisson(4.0, 3, np.random.default_rng(1)).tolist()


def test_a_failing_worker_ends_the_run() -> None:
    def fails(i: int) -> None:
        if i == 3:
            raise ValueError("request 3")
        time.sleep(0.001)

    with pytest.raises(ValueError, match="request 3"):
        closed_loop([fails, fails], 1_000_000)
