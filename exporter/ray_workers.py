"""The engine `ray` of an index: ranges on Ray Data, a task in each of a pool of actors.

1. What all ranges share goes into Ray's object store once. A worker makes its task from there.
2. Ray restarts a worker that died, and gives its range to another.
3. Ranges are the same for any number of workers.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import ray
import ray.data
from numpy.typing import NDArray

from rexit import ray_cluster
from rexit.exporter.workers import Task

MAX_RANGES = 256
"""Maximum number of ranges. A worker that dies loses one."""


class OnRay:
    """Works on the cluster that this process is connected to, else on the one that `$RAY_ADDRESS` names, else on this machine.

    Args:
        workers: number of workers, one CPU each; 0: as many as the cluster has CPUs for.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers

    def run(self, task: type[Task], shared: Mapping[str, Any], count: int, step: int) -> Iterator[tuple[int, int, Any]]:
        step *= max(1, -(-count // (step * MAX_RANGES)))
        ranges = [{"begin": begin, "end": min(count, begin + step)} for begin in range(0, count, step)]
        if not ranges:
            return
        with ray_cluster.connected():
            workers = min(self._workers or max(1, int(ray.cluster_resources().get("CPU", 1))), len(ranges))
            results = ray.data.from_items(ranges, override_num_blocks=len(ranges)).map_batches(
                Worker,
                batch_size=1,
                batch_format="numpy",
                compute=ray.data.ActorPoolStrategy(size=workers),
                num_cpus=1,
                fn_constructor_kwargs={"task": task, "shared": {name: ray.put(value) for name, value in shared.items()}},
            )
            for row in results.iter_rows():
                yield int(row["begin"]), int(row["end"]), pickle.loads(row["result"])


class Worker:
    """An actor with one task. shared: references of the constructor's arguments."""

    def __init__(self, task: type[Task], shared: Mapping[str, ray.ObjectRef[Any]]) -> None:
        self._task, self._shared = task, shared

    @cached_property
    def _work(self) -> Task:
        """Made on the first call: if a constructor raises, Ray reports a dead actor without the exception."""
        return self._task(**{name: ray.get(value) for name, value in self._shared.items()})

    def __call__(self, batch: dict[str, NDArray[Any]]) -> dict[str, Any]:
        """Works on the one range in a batch."""
        begin, end = int(batch["begin"][0]), int(batch["end"][0])
        results = np.empty(1, object)
        results[0] = pickle.dumps(self._work(begin, end))
        return {"begin": [begin], "end": [end], "result": results}
