"""A load generator: how many requests a second, and how long a request waits if they arrive at random.

`closed_loop` keeps every worker busy and counts: that is capacity. `open_loop` lets requests arrive at times drawn in advance,
whether or not the last request is done, and counts latency from the moment a request should have started: a slow answer then
delays the requests behind it, as in production. A load generator that waits for an answer before it sends the next request
would hide that. A worker is a function of the request's number and runs in a thread of its own.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Worker = Callable[[int], object]


@dataclass(frozen=True)
class Served:
    """When n requests arrived, were begun and were answered: seconds since the beginning, float64 [n] each."""

    arrived: NDArray[np.float64]
    begun: NDArray[np.float64]
    answered: NDArray[np.float64]

    @property
    def latency(self) -> NDArray[np.float64]:
        """Seconds from arrival to answer, float64 [n]."""
        return self.answered - self.arrived

    @property
    def waiting(self) -> NDArray[np.float64]:
        """Seconds from arrival until a worker started on it, float64 [n]."""
        return self.begun - self.arrived


def poisson(rate: float, count: int, random: np.random.Generator) -> NDArray[np.float64]:
    """Returns the arrival times of a Poisson process: seconds since the beginning, ascending, float64 [count].

    Args:
        rate: Requests a second.
        count: Number of arrivals.
        random: The generator that draws them.
    """
    return np.cumsum(random.exponential(1.0 / rate, count))


def open_loop(
    workers: Sequence[Worker],
    arrivals: NDArray[np.float64],
    now: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> Served:
    """Serves requests that arrive at `arrivals`: a free worker takes the first request that no worker has taken.

    Args:
        workers: The workers, each in a thread of its own. An exception of a worker ends the run and is raised.
        arrivals: When each request arrives, in seconds since the beginning, ascending, float64 [n].
        now, sleep: The clock.

    Returns:
        When each request was begun and answered.
    """
    begun, answered = np.zeros(len(arrivals)), np.zeros(len(arrivals))
    start = now()

    def serve(worker: Worker, i: int) -> None:
        while (early := arrivals[i] - (now() - start)) > 0:
            sleep(early)
        begun[i] = now() - start
        worker(i)
        answered[i] = now() - start

    _serve_all(workers, len(arrivals), serve)
    return Served(arrivals, begun, answered)


def closed_loop(workers: Sequence[Worker], count: int, now: Callable[[], float] = time.perf_counter) -> float:
    """Returns requests a second if each worker takes the next request as soon as it is free."""
    start = now()
    _serve_all(workers, count, lambda worker, i: worker(i))
    return count / (now() - start)


def _serve_all(workers: Sequence[Worker], count: int, serve: Callable[[Worker, int], object]) -> None:
    numbers, lock, stop = itertools.count(), threading.Lock(), threading.Event()

    def work(worker: Worker) -> None:
        try:
            while not stop.is_set():
                with lock:
                    i = next(numbers)
                if i >= count:
                    return
                serve(worker, i)
        except BaseException:
            stop.set()
            raise

    with ThreadPoolExecutor(len(workers)) as pool:
        for future in [pool.submit(work, worker) for worker in workers]:
            future.result()
