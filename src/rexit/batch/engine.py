"""The local engine: one session in this process."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from rexit.batch.partition import Scored, Scoring, score_partition
from rexit.batch.work import Plan, Work

if TYPE_CHECKING:
    from rexit.bundle import Bundle


@dataclass(frozen=True)
class Opening:
    """How a session is opened: `rexit.open`'s threads and device."""

    bundle: Bundle
    threads: int
    device: str | None

    @cached_property
    def digests(self) -> tuple[str, str | None]:
        """Of the variant and its policy, when they were first asked for: at the beginning of a run."""
        return self.bundle.variant_sha256, self.bundle.policy_sha256


Advance = Callable[[int], None]
"""Told how many pairs more are done."""


class Engine(Protocol):
    """Scores partitions, in whatever order."""

    def score(
        self, opening: Opening, work: Work, plan: Plan, todo: Sequence[int], scoring: Scoring, advance: Advance
    ) -> Iterator[tuple[int, Scored]]:
        """Each partition of `todo` with its scores. Raises BundleError, BackendError, InputError."""


class Local:
    """One session, one partition after the other."""

    def score(
        self, opening: Opening, work: Work, plan: Plan, todo: Sequence[int], scoring: Scoring, advance: Advance
    ) -> Iterator[tuple[int, Scored]]:
        from rexit import runtime

        bundle = opening.bundle
        opened = runtime.open(bundle.path, bundle.variant.name, threads=opening.threads, device=opening.device)
        with contextlib.closing(opened) as session:
            for partition in todo:
                yield (
                    partition,
                    score_partition(session, bundle.catalog, plan.unknown, work.pairs(partition), scoring, advance),
                )
