"""Slates' candidates with their labels: what a model's ranking is judged by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rexit.baselines import Scores, baselines
from rexit.bundle import Id
from rexit.exporter.source import Source, zero_of
from rexit.ranking import doubt
from rexit.slates import AnySlate


@dataclass(frozen=True)
class LabelledPairs:
    """The pairs of some slates. users: int64 [n], numbered from 0. liked: bool [n]. baselines: see `rexit.baselines`."""

    users: NDArray[np.int64]
    liked: NDArray[np.bool_]
    baselines: Scores

    @classmethod
    def of(cls, source: Source, slates: Sequence[AnySlate]) -> LabelledPairs:
        """Returns the pairs of the slates, in their order."""
        numbers: dict[Id, int] = {}
        owners = [numbers.setdefault(slate.user, len(numbers)) for slate in slates]
        users = np.repeat(np.array(owners, np.int64), [len(slate.items) for slate in slates])
        liked = np.concatenate([slate.liked for slate in slates])
        return cls(users, liked, baselines(source, slates, zero=zero_of(source, slates)))

    @property
    def user_count(self) -> int:
        """Number of users."""
        return int(self.users.max(initial=-1)) + 1

    def doubt(self, score: NDArray[np.float32]) -> str | None:
        """Returns why a ranking may be worth nothing (`rexit.ranking.doubt`); None without a reason. score: float32 [n]."""
        return doubt(np.ascontiguousarray(score), self.baselines, self.users, self.liked)
