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
    """How a session is opened. threads: as in `rexit.open`."""

    bundle: Bundle
    threads: int

    @cached_property
    def digests(self) -> Digests:
        """Digests of the bundle when the run began."""
        return digests(self.bundle)


Digests = Mapping[str, str | None]
"""SHA-256 of what determines a bundle's scores: its `variant`, `policy` and `catalog`. Pairs hold rows of this catalog."""


def digests(bundle: Bundle) -> Digests:
    """Returns the digests of an opened bundle."""
    return {"variant": bundle.variant_sha256, "policy": bundle.policy_sha256, "catalog": bundle.manifest.catalog_sha256}


def open_session(path: Path, variant: str, expected: Digests, *, threads: int) -> tuple[Session, Catalog]:
    """Opens a session over the bundle that the run began with, and returns it with its catalog. Raises BundleError if the folder
    holds another bundle now."""
    from rexit import runtime

    session = runtime.open(path, variant, threads=threads)
    try:
        bundle = Bundle.open(path, variant)  # after the session, so that a refresh in between is noticed
        if changed := [name for name, sha256 in digests(bundle).items() if sha256 != expected[name]]:
            raise BundleError(f"{path}: this bundle has another {' and another '.join(changed)} than when the run began")
    except BaseException:
        session.close()
        raise
    return session, bundle.catalog


Advance = Callable[[int], None]
"""Called with the number of pairs finished since the last call."""


class Engine(Protocol):
    """Scores partitions, in any order."""

    def score(
        self, opening: Opening, work: Work, plan: Plan, pending: Sequence[int], scoring: Scoring, advance: Advance
    ) -> Iterator[tuple[int, Scored]]:
        """Yields each pending partition with its scores. Raises BundleError, BackendError, InputError."""


class Local:
    """Scores one partition after the other in one session."""

    def score(
        self, opening: Opening, work: Work, plan: Plan, pending: Sequence[int], scoring: Scoring, advance: Advance
    ) -> Iterator[tuple[int, Scored]]:
        path, variant = opening.bundle.path, opening.bundle.variant.name
        opened, catalog = open_session(path, variant, opening.digests, threads=opening.threads)
        with contextlib.closing(opened) as session:
            for partition in pending:
                pairs = work.pairs(partition, catalog)
                yield partition, score_partition(session, catalog, plan.unknown, pairs, scoring, advance)
