"""Where an export's prompts and labels come from: a catalog, whose prompts are assembled, or a file of slates, which has them.
Both have labelled slates in three splits (`rexit.data.slates.cut`), and a ranking is judged by their labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rexit.data.baselines import Scores, baselines
from rexit.data.ranking import doubt, noun_of
from rexit.data.slates import AnySlate, Slate, TokenSlate
from rexit.data.slates_file import SlatesFile
from rexit.exporter.prompt.builder import Prompt, PromptBuilder
from rexit.exporter.zero import zero_log_odds
from rexit.format.bundle import Catalog, Id


@dataclass(frozen=True)
class LabelledPairs:
    """The pairs of some slates. users: int64 [n], numbered from 0. liked: bool [n]. baselines: see `rexit.data.baselines`. noun:
    whom the slates are of, for sentences."""

    users: NDArray[np.int64]
    liked: NDArray[np.bool_]
    baselines: Scores
    noun: str = "users"

    @classmethod
    def of(cls, source: Source, slates: Sequence[AnySlate]) -> LabelledPairs:
        """Returns the pairs of the slates, in their order."""
        numbers: dict[Id, int] = {}
        owners = [numbers.setdefault(slate.user, len(numbers)) for slate in slates]
        users = np.repeat(np.array(owners, np.int64), [len(slate.items) for slate in slates])
        liked = np.concatenate([slate.liked for slate in slates])
        return cls(users, liked, baselines(source, slates, zero=zero_of(source, slates)), noun_of(isinstance(source, Catalog)))

    def first(self, count: int) -> LabelledPairs:
        """Returns the first pairs."""
        scores = {name: score[:count] for name, score in self.baselines.items()}
        return LabelledPairs(self.users[:count], self.liked[:count], scores, self.noun)

    @property
    def user_count(self) -> int:
        """Number of users."""
        return int(self.users.max(initial=-1)) + 1

    def doubt(self, score: NDArray[np.float32]) -> str | None:
        """Returns why a ranking may be worth nothing (`rexit.data.ranking.doubt`); None without a reason. score: float32 [n]."""
        return doubt(np.ascontiguousarray(score), self.baselines, self.users, self.liked, self.noun)


Source = Catalog | SlatesFile


def prompt_maker(source: Source, split: str | None = None) -> Callable[[AnySlate], Prompt]:
    """Returns a function from a slate of the source to its prompt. split: retrieve as for it; None: as a service does."""
    if isinstance(source, SlatesFile):
        return _own_prompt
    builder = PromptBuilder(source) if split is None else PromptBuilder.of(source, split)

    def assembled(slate: AnySlate) -> Prompt:
        assert isinstance(slate, Slate)
        return builder.prompt(slate.user, slate.items, slate.as_of, inputs=slate.inputs)

    return assembled


def _own_prompt(slate: AnySlate) -> Prompt:
    assert isinstance(slate, TokenSlate)
    return Prompt(slate.prefix, list(slate.candidates), np.zeros(0, np.int64), None)


def zero_of(source: Source, slates: Sequence[AnySlate]) -> list[NDArray[np.float32]]:
    """A catalog's exit zero's log-odds of the candidates of every slate, float32 [n] each; empty: it has none."""
    if not isinstance(source, Catalog) or not source.numbers:
        return []
    return zero_log_odds(source, [slate for slate in slates if isinstance(slate, Slate)])


def has_training_slates(source: Source) -> bool:
    """Whether the training split has any."""
    return bool(source.slates["train"]) if isinstance(source, SlatesFile) else len(source.split("train")) > 0
