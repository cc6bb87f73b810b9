"""One partition of the pairs: its slates are scored one after the other.

1. A slate is the rows with the same user, time and inputs, in the order of the file.
2. A user's slates follow one another by time, then by inputs. The first begins with an empty prefix cache, so scores depend on
   nothing else.
3. A slate with a prompt that is too long is recorded. Any other failure ends the run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rexit.batch.records import input_values
from rexit.batch.work import SCORE
from rexit.errors import RexitError
from rexit.request import Request

if TYPE_CHECKING:
    from rexit.bundle import Catalog, Id
    from rexit.runtime import Scores, Session


@dataclass(frozen=True)
class Scoring:
    """How every slate is scored.

    Attributes:
        timed: Whether pairs have times.
        top_k: Of `Session.score`.
    """

    timed: bool
    top_k: int


Scored = tuple[NDArray[Any], dict[str, Any]]
"""Records of `SCORE`, and the partition's summary: numbers of pairs, slates, candidates with an answer and their layers; the
slates that are too long."""


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
