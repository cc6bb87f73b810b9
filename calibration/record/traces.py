"""Every exit's log-odds on every pair, from the deployed variant itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rexit import roles
from rexit.errors import InputError
from rexit.ids import Id
from rexit.progress import Progress, silent
from rexit.ranking import probabilities
from rexit.slates import AnySlate

if TYPE_CHECKING:
    from rexit.runtime import Session

MAX_SEARCH_PAIRS = 40_000
"""Most pairs of the choosing users."""


@dataclass(frozen=True)
class Traces:
    """A split as the variant scores it: n pairs in S slates, E exits.

    Attributes:
        log_odds: raw, float32 [n, E].
        liked: the labels, bool [n].
        users: int64 [n], numbered from 0 in order of appearance.
        offsets: where each slate begins, and n: int64 [S + 1].
        ids: the users' ids, by number.
        known: whether each pair has a label, bool [n]; None: all have. An unknown label is False in `liked`.
    """

    log_odds: NDArray[np.float32]
    liked: NDArray[np.bool_]
    users: NDArray[np.int64]
    offsets: NDArray[np.int64]
    ids: tuple[Id, ...]
    known: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.liked)

    @property
    def exits(self) -> int:
        """E, the number of exits."""
        return int(self.log_odds.shape[1])

    @property
    def labelled(self) -> bool:
        """Whether there are labels."""
        return self.known is None or bool(self.known.any())

    @property
    def targets(self) -> NDArray[np.bool_] | NDArray[np.float64]:
        """What maps are fitted to, [n]: the labels, or the probability of the last head where there are none."""
        return self.liked if self.labelled else probabilities(np.ascontiguousarray(self.log_odds[:, -1]))

    @property
    def user_count(self) -> int:
        return len(self.ids)

    def of_users(self, mask: NDArray[np.bool_]) -> Traces:
        """Returns the traces of some users, numbered anew. mask: which users, bool [user_count]."""
        mask = mask[self.users[self.offsets[:-1]]]
        sizes = np.diff(self.offsets)
        pairs = np.repeat(mask, sizes)
        numbers, users = np.unique(self.users[pairs], return_inverse=True)
        parts: dict[str, Any] = {
            name: None if (value := getattr(self, name)) is None else value[pairs] for name in ("log_odds", "liked", "known")
        }
        return replace(
            self,
            **parts,
            users=users.astype(np.int64),
            offsets=np.concatenate(([0], np.cumsum(sizes[mask]))).astype(np.int64),
            ids=tuple(self.ids[n] for n in numbers.tolist()),
        )


def split_users(traces: Traces) -> tuple[Traces, Traces]:
    """Returns the traces of the users who choose a policy, and those of the users who certify it, see `rexit.roles`.

    The first choosing users choose, by place, as many as have MAX_SEARCH_PAIRS pairs. More would make the search slow and the
    choice no better. Those beyond neither choose nor certify: they may have chosen the heads.

    Raises:
        InputError: no user chooses or none certifies, or a part whose labels are all the same.
    """
    choosing = np.array(roles.choosing(traces.ids))
    pairs = np.bincount(traces.users)[choosing]
    count = max(1, int(np.searchsorted(np.cumsum(pairs), MAX_SEARCH_PAIRS, "right")))
    parts = []
    certifying = np.setdiff1d(np.arange(traces.user_count), choosing)
    for numbers in (choosing[:count], certifying):
        mask = np.zeros(traces.user_count, np.bool_)
        mask[numbers] = True
        parts.append(traces.of_users(mask))
    for part in parts:
        if part.labelled and (part.liked.all() or not part.liked.any()):
            kind = "liked" if part.liked[0] else "not liked"
            raise InputError(f"validation: all {len(part)} pairs of one part of the users are {kind}, expected both kinds")
    return parts[0], parts[1]


def collect(
    session: Session, slates: Sequence[AnySlate], step: str = "traces", progress: Progress = silent
) -> NDArray[np.float32]:
    """Returns the raw log-odds of all slates at every exit, float32 [n, E].

    Args:
        session: a session of the deployed variant.
        slates: in the order of the result.
        step: its name for `progress`.

    Raises:
        InputError: if a log-odds is not finite.
    """
    parts = []
    for n, slate in enumerate(slates):
        progress(step, n, len(slates))
        part = session.trace(slate.request)
        if not np.isfinite(part).all():
            raise InputError(f"user {slate.user!r}: the variant's log-odds are not finite; run `rexit verify`")
        parts.append(part)
    progress(step, len(slates), len(slates))
    return np.concatenate(parts).astype(np.float32, copy=False)


def join(slates: Sequence[AnySlate], log_odds: NDArray[np.float32], name: str = "traces") -> Traces:
    """Returns slates and their log-odds as traces.

    Args:
        slates: S of them, with their labels.
        log_odds: raw, float32 [n, E], in the order of the slates.
        name: the split's, for messages.

    Raises:
        InputError: if all labels are the same, so that nothing can be ranked.
    """
    liked, known = np.concatenate([slate.liked for slate in slates]), None
    if not all(slate.labelled for slate in slates):
        known = np.concatenate([np.full(len(slate.liked), slate.labelled) for slate in slates])
    if known is None and (liked.all() or not liked.any()):
        raise InputError(f"{name}: all {len(liked)} interactions are {'liked' if liked[0] else 'not liked'}, expected both kinds")
    numbers: dict[Id, int] = {}
    users = [numbers.setdefault(slate.user, len(numbers)) for slate in slates]
    sizes = [len(slate.items) for slate in slates]
    offsets = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
    return Traces(log_odds, liked, np.repeat(np.array(users, np.int64), sizes), offsets, tuple(numbers), known)
