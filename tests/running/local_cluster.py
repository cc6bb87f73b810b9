"""A Ray cluster of this process, and who works on it."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from rexit.process import interrupts


@contextlib.contextmanager
def local_cluster(cpus: int) -> Iterator[None]:
    """Connects this process to a cluster of its own while the block runs."""
    import ray

    for last in (False, False, True):  # Ray gives up after 30 s, which a busy machine may need
        try:
            with interrupts.handlers_restored():
                ray.init(num_cpus=cpus, log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
            break
        except Exception:
            ray.shutdown()
            if last:
                raise
    yield
    ray.shutdown()


def workers() -> list[int]:
    """Process ids of the actors below this process."""
    actors, parents = [], {os.getpid()}
    processes = sorted(int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())
    for _ in range(3):  # this process, its raylet, the raylet's workers
        for pid in processes:
            with contextlib.suppress(OSError):
                if int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) in parents:
                    parents.add(pid)
    for pid in parents:
        with contextlib.suppress(OSError):
            if b"MapWorker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                actors.append(pid)
    return actors


@contextlib.contextmanager
def one_worker_killed(when: Callable[[], bool] = lambda: True) -> Iterator[list[int]]:
    """Kills one worker while the block runs, as soon as there is one and `when()` is true. Yields a list for its process id."""
    killed: list[int] = []
    done = threading.Event()

    def kill() -> None:
        while not killed and not done.wait(0.005):
            if when() and (running := workers()):
                os.kill(running[0], signal.SIGKILL)
                killed.append(running[0])

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    try:
        yield killed
    finally:
        done.set()
        thread.join()
