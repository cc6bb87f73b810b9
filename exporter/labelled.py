"""Slates' candidates whose label is known, of each objective: what a model's ranking is judged by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rexit.baselines import Scores, baselines
from rexit.bundle import Catalog, Id
from rexit.bundle.labels import UNKNOWN
from rexit.exporter.source import Source, zero_of
from rexit.ranking import doubt
from rexit.slates import AnySlate, Slate


@dataclass(frozen=True)
class LabelledPairs:
    """The pairs whose label of an objective is known.

    name: the objective's name; None if it has none. pairs: which of all pairs they are, bool [pairs].
    users: int64 [n], numbered from 0. liked: bool [n]. baselines: see `rexit.baselines`.
    """

    name: str | None
    pairs: NDArray[np.bool_]
    users: NDArray[np.int64]
    liked: NDArray[np.bool_]
    baselines: Scores

    @property
    def user_count(self) -> int:
        """Number of users."""
        return int(self.users.max(initial=-1)) + 1


def labelled_pairs(source: Source, slates: Sequence[AnySlate]) -> tuple[LabelledPairs, ...]:
    """The labelled pairs of some slates, by objective; all pairs if there is one without a name."""
    numbers: dict[Id, int] = {}
    owners = [numbers.setdefault(slate.user, len(numbers)) for slate in slates]
    users = np.repeat(np.array(owners, np.int64), [len(slate.items) for slate in slates])
    if not isinstance(source, Catalog) or not source.objectives:
        liked = np.concatenate([slate.liked for slate in slates])
        scores = baselines(source, slates, zero=zero_of(source, slates))
        return (LabelledPairs(None, np.ones(len(users), np.bool_), users, liked, scores),)
    labels = np.concatenate([slate.objectives for slate in slates if isinstance(slate, Slate) and slate.objectives is not None])
    parts = []
    for k, name in enumerate(source.objectives):
        pairs = labels[:, k] != UNKNOWN
        known = {baseline: scores[pairs] for baseline, scores in baselines(source, slates, k).items()}
        own_users = np.unique(users[pairs], return_inverse=True)[1].astype(np.int64)
        parts.append(LabelledPairs(name, pairs, own_users, labels[pairs, k] == 1, known))
    return tuple(parts)


def first_doubt(parts: Sequence[LabelledPairs], last: NDArray[np.float32]) -> str | None:
    """Why a model's ranking may be worth nothing (`rexit.ranking.doubt`), by the first objective with a reason; None without one.

    last: the last exit's log-odds, [pairs]; of K > 1 objectives [pairs, K].
    """
    for part, score in zip(parts, np.atleast_2d(last.T), strict=True):
        if reason := doubt(np.ascontiguousarray(score[part.pairs]), part.baselines, part.users, part.liked):
            return f"Objective {part.name!r}: {reason}" if part.name else reason
    return None
