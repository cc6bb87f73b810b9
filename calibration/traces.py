"""Every exit's log-odds on every pair, from the deployed variant itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rexit.bundle.catalog import Id
from rexit.errors import InputError
from rexit.measure.scorer import Scorer
from rexit.progress import Progress, silent
from rexit.slates import Slate

MOST_PAIRS = 40_000
"""What the search looks at."""


@dataclass(frozen=True)
class Traces:
    """A split as the variant sees it: n pairs in S slates, E exits.

    log_odds float32 [n, E], raw; liked bool [n]; users int64 [n], numbered in order of appearance; offsets int64 [S + 1] of the
    slates in the pairs.
    """

    log_odds: NDArray[np.float32]
    liked: NDArray[np.bool_]
    users: NDArray[np.int64]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.liked)

    @property
    def exits(self) -> int:
        """E, the number of exits."""
        return int(self.log_odds.shape[1])

    @property
    def user_count(self) -> int:
        return int(self.users.max()) + 1

    def of(self, chosen: NDArray[np.bool_]) -> Traces:
        """Those of the chosen users, bool [users], numbered anew."""
        pairs = chosen[self.users]
        sizes = np.diff(self.offsets)[chosen[self.users[self.offsets[:-1]]]]
        users = np.unique(self.users[pairs], return_inverse=True)[1].astype(np.int64)
        return Traces(self.log_odds[pairs], self.liked[pairs], users, np.concatenate(([0], np.cumsum(sizes))).astype(np.int64))


def parted(traces: Traces, seed: int = 0) -> tuple[Traces, Traces]:
    """Traces of two parts of the users: those that choose a policy, and the others, which certify it.

    A third of the users chooses, drawn by `seed`; fewer where a third has more than MOST_PAIRS pairs: more would make the search
    slow and the choice no better, while more users make a certificate easier to get (our choice). Raises InputError for fewer
    than two users, or a part whose labels are all the same.
    """
    if traces.user_count < 2:
        raise InputError("validation: has one user, expected at least two: one part of the users chooses, the other certifies")
    order = np.random.default_rng(seed).permutation(traces.user_count)
    third = order[: max(1, traces.user_count // 3)]
    pairs = np.bincount(traces.users, minlength=traces.user_count)[third]
    fits = max(1, int(np.searchsorted(np.cumsum(pairs), MOST_PAIRS, "right")))
    chooses = np.zeros(traces.user_count, np.bool_)
    chooses[third[:fits]] = True
    parts = traces.of(chooses), traces.of(~chooses)
    for part in parts:
        if part.liked.all() or not part.liked.any():
            kind = "liked" if part.liked[0] else "not liked"
            raise InputError(f"validation: all {len(part)} pairs of one part of the users are {kind}, expected both kinds")
    return parts


def collect(session: Scorer, slates: Sequence[Slate], what: str = "traces", progress: Progress = silent) -> NDArray[np.float32]:
    """Raw log-odds of all slates at every exit: float32 [n, E]; `what` names the step in progress. Raises InputError if one is
    not finite."""
    parts = []
    for n, slate in enumerate(slates):
        progress(what, n, len(slates))
        part = session.trace(slate.user, slate.items, as_of=slate.as_of)
        if not np.isfinite(part).all():
            raise InputError(f"user {slate.user!r}: the variant's log-odds are not finite; run `rexit verify`")
        parts.append(part)
    progress(what, len(slates), len(slates))
    return np.concatenate(parts).astype(np.float32, copy=False)


def join(slates: Sequence[Slate], log_odds: NDArray[np.float32], what: str = "traces") -> Traces:
    """Slates and their log-odds, float32 [n, E]; `what` names them in messages. Raises InputError if all labels are the same,
    since then nothing can be ranked."""
    liked = np.concatenate([s.liked for s in slates])
    if liked.all() or not liked.any():
        raise InputError(f"{what}: all {len(liked)} interactions are {'liked' if liked[0] else 'not liked'}, expected both kinds")
    numbers: dict[Id, int] = {}
    users = [numbers.setdefault(s.user, len(numbers)) for s in slates]
    sizes = [len(s.items) for s in slates]
    offsets = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
    return Traces(log_odds, liked, np.repeat(np.array(users, np.int64), sizes), offsets)
