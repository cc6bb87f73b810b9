"""The local engine: one session in this process."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rexit.batch.partition import Scored, Scoring, score_partition
from rexit.batch.work import Plan, Work
from rexit.bundle import Bundle, Catalog
from rexit.errors import BundleError

if TYPE_CHECKING:
    from rexit.runtime import Session


@dataclass(frozen=True)
class Opening:
    """How a session is opened: `rexit.open`'s threads and device."""

    bundle: Bundle
    threads: int
    device: str | None

    @cached_property
    def digests(self) -> Digests:
        """Of the bundle at the beginning of a run."""
        return digests(self.bundle)


Digests = Mapping[str, str | None]
"""SHA-256 of what decides the scores of a bundle: its `variant`, `policy` and `catalog`. Pairs hold rows of this catalog."""


def digests(bundle: Bundle) -> Digests:
    """The digests of an opened bundle."""
    return {"variant": bundle.variant_sha256, "policy": bundle.policy_sha256, "catalog": bundle.manifest.catalog_sha256}


def open_session(path: Path, variant: str, expected: Digests, *, threads: int, device: str | None) -> tuple[Session, Catalog]:
    """A session over the bundle that the run began with, and its catalog. Raises BundleError if the folder holds another."""
    from rexit import runtime

    session = runtime.open(path, variant, threads=threads, device=device)
    try:
        bundle = Bundle.open(path, variant)  # after the session: a refresh in between must not go unnoticed
        if changed := [name for name, sha256 in digests(bundle).items() if sha256 != expected[name]]:
            raise BundleError(f"{path}: this bundle has another {' and another '.join(changed)} than when the run began")
    except BaseException:
        session.close()
        raise
    return session, bundle.catalog


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
        path, variant = opening.bundle.path, opening.bundle.variant.name
        opened, catalog = open_session(path, variant, opening.digests, threads=opening.threads, device=opening.device)
        with contextlib.closing(opened) as session:
            for partition in todo:
                yield partition, score_partition(session, catalog, plan.unknown, work.pairs(partition), scoring, advance)
