"""The engine `ray`: partitions on Ray Data, a session in each of a pool of actors.

1. This process reads the partitions' files. They go to the workers through Ray.
2. A worker opens the bundle at the same path as this process, and refuses a bundle that differs.
3. Ray restarts a worker that died, and gives its partition to another. This process stores partitions as they arrive.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
import ray.data
from numpy.typing import NDArray

from rexit.batch.engine import Advance, Digests, Opening, open_session
from rexit.batch.partition import Scored, Scoring, score_partition
from rexit.batch.records import pair_type
from rexit.batch.work import SCORE, Plan, Work
from rexit.bundle import Catalog
from rexit.errors import BackendError, RexitError
from rexit.process import interrupts

if TYPE_CHECKING:
    from rexit.runtime import Session


class OnRay:
    """Scores on the cluster that this process is connected to, else on the one that `$RAY_ADDRESS` names, else on this machine.

    A worker takes as many CPUs as its session has threads, by default 1.

    Args:
        workers: Number of workers; 0: as many as the cluster has CPUs for.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers

    def score(
        self, opening: Opening, work: Work, plan: Plan, pending: Sequence[int], scoring: Scoring, advance: Advance
    ) -> Iterator[tuple[int, Scored]]:
        if not pending:
            return
        with _connected():
            for row in self._scores(opening, work, plan, pending, scoring).iter_rows():
                summary = json.loads(row["summary"])
                advance(summary["pairs"])
                yield int(row["partition"]), (np.frombuffer(row["scores"], SCORE), summary)

    def _scores(self, opening: Opening, work: Work, plan: Plan, pending: Sequence[int], scoring: Scoring) -> ray.data.Dataset:
        threads = opening.threads or 1
        fit = max(1, int(ray.cluster_resources().get("CPU", 1)) // threads)
        bundle = opening.bundle
        files = [f"local://{work.path('pairs', partition).absolute()}" for partition in pending]
        # Reading takes no CPU: it would wait for ever where the workers have them all. So its tasks need another bound.
        read = ray.data.read_binary_files(files, include_paths=True, override_num_blocks=len(files), concurrency=1, num_cpus=0)
        return read.map_batches(
            Worker,
            batch_size=1,
            batch_format="numpy",
            compute=ray.data.ActorPoolStrategy(size=min(self._workers or fit, len(pending))),
            num_cpus=threads,
            fn_constructor_kwargs={
                "path": str(bundle.path.absolute()),
                "variant": bundle.variant.name,
                "digests": opening.digests,
                "threads": threads,
                "unknown": plan.unknown,
                "scoring": scoring,
            },
        )


class Worker:
    """An actor with one session; it scores one partition per call. digests: those of the bundle that the run began with."""

    def __init__(
        self,
        path: str,
        variant: str,
        digests: Digests,
        threads: int,
        unknown: Sequence[Any],
        scoring: Scoring,
    ) -> None:
        self._path, self._variant, self._digests, self._threads = path, variant, digests, threads
        self._unknown, self._scoring = unknown, scoring

    @cached_property
    def _opened(self) -> tuple[Session, Catalog]:
        """Opened on the first call: if a constructor raises, Ray reports a dead actor without the exception."""
        return open_session(Path(self._path), self._variant, self._digests, threads=self._threads)

    def __call__(self, batch: dict[str, NDArray[Any]]) -> dict[str, list[Any]]:
        """Scores the one partition in a batch: its `bytes` (records of `pair_type`) and `path`."""
        session, catalog = self._opened
        pairs = np.frombuffer(batch["bytes"][0], pair_type(catalog.inputs))
        scores, summary = score_partition(session, catalog, self._unknown, pairs, self._scoring)
        partition = int(Path(batch["path"][0]).name.removeprefix("pairs-"))
        return {"partition": [partition], "scores": [scores.tobytes()], "summary": [json.dumps(summary)]}


@contextlib.contextmanager
def _connected() -> Iterator[None]:
    """Connects this process to the cluster of `$RAY_ADDRESS`, or to a new one on this machine, unless it is connected already.

    Raises:
        RexitError: The error of a worker.
        BackendError: Any other failure of Ray.
    """
    started = not ray.is_initialized()
    if started:
        with interrupts.handlers_restored():
            ray.init(log_to_driver=False, logging_level=logging.ERROR)
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.raise_original_map_exception = True  # Ray's wrapper loses the cause between processes
        yield
    except ray.exceptions.RayError as exc:
        raise _cause(exc) from exc
    finally:
        if started:
            ray.shutdown()


def _cause(exc: BaseException) -> RexitError:
    """Returns the error that a worker raised, from inside Ray's wrappers."""
    inner: BaseException | None = exc
    while inner is not None:
        if isinstance(inner, RexitError):
            return inner
        inner = getattr(inner, "cause", None) or inner.__cause__
    return BackendError(f"Ray: {str(exc).strip().splitlines()[-1]}")
