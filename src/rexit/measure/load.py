"""A load generator: how many requests a second, and how long each one waits if they arrive at random.

`closed_loop` keeps every worker busy and counts: that is capacity. `open_loop` lets requests arrive at times drawn in advance,
whether or not the last one is done, and counts each one's latency from the moment it should have started: a slow answer then
delays the ones behind it, as in production. A load generator that waits for an answer before it sends the next request would
hide exactly that. A worker is a function of the request's number and runs in a thread of its own.
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
    """When requests arrived, were started and were answered: seconds since the beginning, float64 [n] each."""

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

    @property
    def busy(self) -> float:
        """Seconds of work, summed over workers."""
        return float((self.answered - self.begun).sum())


def poisson(rate: float, count: int, random: np.random.Generator) -> NDArray[np.float64]:
    """Arrival times of a Poisson process with `rate` requests a second: seconds since the beginning, ascending, float64
    [count]."""
    return np.cumsum(random.exponential(1.0 / rate, count))


def open_loop(
    workers: Sequence[Worker],
    arrivals: NDArray[np.float64],
    now: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> Served:
    """Request i arrives at `arrivals[i]` seconds; the first free worker takes the first one not yet taken.

    A worker's exception ends the run and is raised.
    """
    begun, answered = np.zeros(len(arrivals)), np.zeros(len(arrivals))
    start = now()

    def serve(worker: Worker, i: int) -> None:
        while (early := arrivals[i] - (now() - start)) > 0:
            sleep(early)
        begun[i] = now() - start
        worker(i)
        answered[i] = now() - start

    _all(workers, len(arrivals), serve)
    return Served(arrivals, begun, answered)


def closed_loop(workers: Sequence[Worker], count: int, now: Callable[[], float] = time.perf_counter) -> float:
    """Requests a second if each worker takes the next one as soon as it is free."""
    start = now()
    _all(workers, count, lambda worker, i: worker(i))
    return count / (now() - start)


def _all(workers: Sequence[Worker], count: int, serve: Callable[[Worker, int], object]) -> None:
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
        for done in [pool.submit(work, worker) for worker in workers]:
            done.result()
