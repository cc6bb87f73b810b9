"""Partitions → their scores, by one session."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from rexit.batch.partition import Scored, Scoring, score_partition
from rexit.batch.work import Plan, Work
from rexit.bundle import Bundle
from rexit.errors import BundleError


@dataclass(frozen=True)
class Opening:
    """How the session is opened. threads: as in `rexit.open`."""

    bundle: Bundle
    threads: int

    @cached_property
    def digests(self) -> dict[str, str | None]:
        """Digests of what determines the bundle's scores, as it was when the run began. Pairs hold rows of this catalog."""
        return _digests(self.bundle)


def score_partitions(
    opening: Opening, work: Work, plan: Plan, pending: Sequence[int], scoring: Scoring, advance: Callable[[int], None]
) -> Iterator[tuple[int, Scored]]:
    """Yields each pending partition with its scores. Raises BundleError if the folder holds another bundle than when the run
    began, BackendError, InputError.

    Args:
        opening: The bundle, and how the session is opened.
        work: Where the pairs are.
        plan: The run's plan.
        pending: Numbers of partitions.
        scoring: How they are scored.
        advance: Called with the number of pairs finished since the last call.
    """
    from rexit import runtime

    path, variant = opening.bundle.path, opening.bundle.variant.name
    with contextlib.closing(runtime.open(path, variant, threads=opening.threads)) as session:
        bundle = Bundle.open(path, variant)  # after the session, so that a refresh in between is noticed
        if changed := [name for name, sha256 in _digests(bundle).items() if sha256 != opening.digests[name]]:
            raise BundleError(f"{path}: this bundle has another {' and another '.join(changed)} than when the run began")
        for partition in pending:
            pairs = work.pairs(partition, bundle.catalog)
            yield partition, score_partition(session, bundle.catalog, plan.unknown, pairs, scoring, advance)


def _digests(bundle: Bundle) -> dict[str, str | None]:
    return {"variant": bundle.variant_sha256, "policy": bundle.policy_sha256, "catalog": bundle.manifest.catalog_sha256}
