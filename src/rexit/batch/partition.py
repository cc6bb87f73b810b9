"""Partitions of the pairs → their scores, by one session: slates are scored one after the other.

1. A slate is the rows with the same user, time and inputs, in the order of the file.
2. A user's slates follow one another by time, then by inputs. The first begins with an empty prefix cache, so scores depend on
   nothing else.
3. A slate with a prompt that is too long is recorded. Any other failure ends the run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rexit.batch.records import input_values
from rexit.batch.work import SCORE, Plan, Work
from rexit.bundle import Bundle, Catalog, Id
from rexit.errors import BundleError, RexitError
from rexit.request import Request

if TYPE_CHECKING:
    from rexit.runtime import Scores, Session


@dataclass(frozen=True)
class Scoring:
    """How every slate is scored.

    Attributes:
        timed: Whether pairs have times.
        top_k: Of `Session.score`.
        threads: Of `rexit.open`.
    """

    timed: bool
    top_k: int
    threads: int = 0


Scored = tuple[NDArray[Any], dict[str, Any]]
"""Records of `SCORE`, and the partition's summary: numbers of pairs, slates, candidates with an answer and their layers; the
slates that are too long."""


def score_partitions(
    bundle: Bundle,
    expected: Mapping[str, str | None],
    work: Work,
    plan: Plan,
    pending: Sequence[int],
    scoring: Scoring,
    advance: Callable[[int], None],
) -> Iterator[tuple[int, Scored]]:
    """Yields each pending partition with its scores. Raises BundleError if the folder holds another bundle than when the run
    began, BackendError, InputError.

    Args:
        bundle: The bundle, as it was when the run began.
        expected: Its `digests` then. Pairs hold rows of this catalog.
        work: Where the pairs are.
        plan: The run's plan.
        pending: Numbers of partitions.
        scoring: How they are scored.
        advance: Called with the number of pairs finished since the last call.
    """
    from rexit import runtime

    path, variant = bundle.path, bundle.variant.name
    with contextlib.closing(runtime.open(path, variant, threads=scoring.threads)) as session:
        now = Bundle.open(path, variant)  # after the session, so that a refresh in between is noticed
        if changed := [name for name, sha256 in digests(now).items() if sha256 != expected[name]]:
            raise BundleError(f"{path}: this bundle has another {' and another '.join(changed)} than when the run began")
        for partition in pending:
            pairs = work.pairs(partition, now.catalog)
            yield partition, score_partition(session, now.catalog, plan.unknown, pairs, scoring, advance)


def digests(bundle: Bundle) -> dict[str, str | None]:
    """Returns digests of what determines a bundle's scores."""
    return {"variant": bundle.variant_sha256, "policy": bundle.policy_sha256, "catalog": bundle.manifest.catalog_sha256}


def score_partition(
    session: Session,
    catalog: Catalog,
    unknown: Sequence[Id],
    pairs: NDArray[Any],
    scoring: Scoring,
    advance: Callable[[int], None] = lambda pairs: None,
) -> Scored:
    """Scores one partition.

    Args:
        session: Its cache is cleared.
        catalog: The session's catalog.
        unknown: Users that the catalog does not have, by their numbers in the pairs.
        pairs: Records of `pair_type`.
        scoring: How slates are scored.
        advance: Called with the number of pairs of each finished slate.

    Raises:
        BackendError: And whatever else `Session.score` raises if the session cannot continue.
    """
    parts, too_long = [], []
    slates = candidates = layers = 0
    last_user = None
    for rows in _slates(pairs):
        slate = pairs[rows]
        user = int(slate["user"][0])
        if user != last_user:
            session.clear_cache()
            last_user = user
        user_id = catalog.users.id(user) if user >= 0 else unknown[-1 - user]
        as_of = int(slate["time"][0]) if scoring.timed else None
        inputs = input_values(catalog.inputs, slate["inputs"][0])
        scores_of = slate["score"] if catalog.reads_scores else None
        request = Request(user_id, catalog.items.take(slate["item"]), None, as_of, inputs, scores_of)
        slates += 1
        try:
            scores = session.score(request, top_k=scoring.top_k)
        except RexitError as exc:
            if exc.status != "REXIT_TOO_LONG":
                raise
            too_long.append([int(slate["row"][0]), user_id, as_of, str(exc)])
        else:
            parts.append(_records(slate["row"], scores))
            candidates += len(slate)
            layers += scores.stats.candidate_layers
        advance(len(slate))
    summary = {"pairs": len(pairs), "slates": slates, "candidates": candidates, "layers": layers, "too_long": too_long}
    return np.concatenate([np.empty(0, SCORE), *parts]), summary


def _slates(pairs: NDArray[Any]) -> Iterator[NDArray[np.int64]]:
    """Yields the places of each slate's rows."""
    width = pairs["inputs"].shape[1]
    inputs = np.unique(pairs["inputs"], axis=0, return_inverse=True)[1].ravel() if width else np.zeros(len(pairs), np.int64)
    keys = np.stack([pairs["user"], pairs["time"], inputs])
    order = np.lexsort(keys[::-1])
    changes = (np.diff(keys[:, order]) != 0).any(0)
    yield from np.split(order, np.flatnonzero(changes) + 1)


def _records(rows: NDArray[np.int64], scores: Scores) -> NDArray[Any]:
    records = np.zeros(len(scores), SCORE)
    records["row"], records["last"], records["rank"] = rows[scores.index], rows[-1], np.arange(len(scores))
    for name in ("exit", "probability", "log_odds"):
        records[name] = getattr(scores, name)
    return records
