"""The engine `ray`: partitions on Ray Data, a session in each of a pool of actors.

1. The partitions' files are read where this process runs, and go to the workers through Ray.
2. A worker opens the bundle at the same path as this process, and refuses one that differs.
3. Ray starts a worker that died anew and gives its partition to another; this process settles partitions as they arrive.
"""

from __future__ import annotations

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

from rexit import interrupts
from rexit.batch.engine import Advance, Digests, Opening, open_session
from rexit.batch.partition import Scored, Scoring, score_partition
from rexit.batch.work import PAIR, SCORE, Plan, Work
from rexit.bundle import Catalog
from rexit.errors import BackendError, RexitError

if TYPE_CHECKING:
    from rexit.runtime import Session


class OnRay:
    """Uses the cluster this process is connected to, else the one that `$RAY_ADDRESS` names, else one of this machine's cores.
    workers: how many; None: as many as the cluster has CPUs for. A worker takes as many CPUs as its session has threads, 1 unless
    said otherwise."""

    def __init__(self, workers: int | None) -> None:
        self._workers = workers

    def score(
        self, opening: Opening, work: Work, plan: Plan, todo: Sequence[int], scoring: Scoring, advance: Advance
    ) -> Iterator[tuple[int, Scored]]:
        if not todo:
            return
        started = not ray.is_initialized()
        if started:
            with interrupts.kept():
                ray.init(log_to_driver=False, logging_level=logging.ERROR)
        try:
            context = ray.data.DataContext.get_current()
            context.enable_progress_bars = False
            context.raise_original_map_exception = True  # not Ray's own around it, which loses its cause between processes
            for row in self._scored(opening, work, plan, todo, scoring).iter_rows():
                summary = json.loads(row["summary"])
                advance(summary["pairs"])
                yield int(row["partition"]), (np.frombuffer(row["scores"], SCORE), summary)
        except ray.exceptions.RayError as exc:
            raise _cause(exc) from exc
        finally:
            if started:
                ray.shutdown()

    def _scored(self, opening: Opening, work: Work, plan: Plan, todo: Sequence[int], scoring: Scoring) -> ray.data.Dataset:
        threads = opening.threads or 1
        fit = max(1, int(ray.cluster_resources().get("CPU", 1)) // threads)
        bundle = opening.bundle
        files = [f"local://{work.path('pairs', partition).absolute()}" for partition in todo]
        # Reading takes no CPU of its own, or it would wait for ever where the workers have them all; so its number of tasks at a
        # time must have another bound.
        read = ray.data.read_binary_files(files, include_paths=True, override_num_blocks=len(files), concurrency=1, num_cpus=0)
        return read.map_batches(
            Worker,
            batch_size=1,
            batch_format="numpy",
            compute=ray.data.ActorPoolStrategy(size=min(self._workers or fit, len(todo))),
            num_cpus=threads,
            fn_constructor_kwargs={
                "path": str(bundle.path.absolute()),
                "variant": bundle.variant.name,
                "digests": opening.digests,
                "threads": threads,
                "device": opening.device,
                "unknown": plan.unknown,
                "scoring": scoring,
            },
        )


class Worker:
    """What an actor does: one session, one partition per call. digests: of the bundle that the run began with."""

    def __init__(
        self,
        path: str,
        variant: str,
        digests: Digests,
        threads: int,
        device: str | None,
        unknown: Sequence[Any],
        scoring: Scoring,
    ) -> None:
        self._path, self._variant, self._digests, self._threads, self._device = path, variant, digests, threads, device
        self._unknown, self._scoring = unknown, scoring

    @cached_property
    def _opened(self) -> tuple[Session, Catalog]:
        """On the first call: what a constructor raises, Ray reports as a dead actor, without the exception."""
        return open_session(Path(self._path), self._variant, self._digests, threads=self._threads, device=self._device)

    def __call__(self, batch: dict[str, NDArray[Any]]) -> dict[str, list[Any]]:
        """batch: one partition, `bytes` (records of `PAIR`) and `path`."""
        pairs = np.frombuffer(batch["bytes"][0], PAIR)
        scores, summary = score_partition(*self._opened, self._unknown, pairs, self._scoring)
        partition = int(Path(batch["path"][0]).name.removeprefix("pairs-"))
        return {"partition": [partition], "scores": [scores.tobytes()], "summary": [json.dumps(summary)]}


def _cause(exc: BaseException) -> RexitError:
    """What a worker raised, out of what Ray makes of it."""
    seen: BaseException | None = exc
    while seen is not None:
        if isinstance(seen, RexitError):
            return seen
        seen = getattr(seen, "cause", None) or seen.__cause__
    return BackendError(f"Ray: {str(exc).strip().splitlines()[-1]}")
