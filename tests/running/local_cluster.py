"""A Ray cluster of this process, and who works on it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from rexit import interrupts


@contextlib.contextmanager
def local_cluster(cpus: int) -> Iterator[None]:
    """Connects this process to a cluster of its own while the block runs."""
    import ray

    for last in (False, False, True):  # Ray gives up after 30 s, which a busy machine may need
        try:
            with interrupts.handlers_restored():
                ray.init(num_cpus=cpus, log_to_driver=False, include_dashboard=False, logging_level="ERROR")
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
