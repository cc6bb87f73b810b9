"""The answer to a request: a sequence of scores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from rexit._native import Stats
from rexit.format.ids import Id


class Score(NamedTuple):
    """One candidate's score.

    Attributes:
        item: The item's id.
        probability: Calibrated probability of a like; None without an answer.
        log_odds: Raw logit(yes) - logit(no) at the exit that answered; None without an answer.
        exit: The exit that answered, from 0; None without an answer.
        layers: Depth of that exit; 0 without an answer.
        cut_short: Whether the deadline stopped the candidate. If it did so before the first exit, there is no answer.
    """

    item: Id
    probability: float | None
    log_odds: float | None
    exit: int | None
    layers: int
    cut_short: bool


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of a slate, in the order of the request or of retrieval; with `top_k`, best first. A sequence of `Score`; the
    attributes hold the same as arrays of n entries.

    Candidates that the deadline stopped before their first exit have no answer: exit -1, NaN for probability and log-odds. With
    `top_k` they come last.

    Two are equal if their answers are, whatever they cost.

    Attributes:
        items: The ids, [n].
        index: Their places in the request, or in the order of retrieval, int64 [n].
        probability: Calibrated probabilities of a like, float32 [n].
        log_odds: Raw logit(yes) - logit(no) at the exit that answered, float32 [n].
        exit: The exits that answered, from 0, int64 [n].
        layers: Depths of those exits, int64 [n]; 0 without an answer.
        cut_short: Which candidates the deadline stopped, bool [n].
        stats: What the request cost.
    """

    items: NDArray[Any]
    index: NDArray[np.int64]
    probability: NDArray[np.float32]
    log_odds: NDArray[np.float32]
    exit: NDArray[np.int64]
    layers: NDArray[np.int64]
    cut_short: NDArray[np.bool_]
    stats: Stats

    def __len__(self) -> int:
        return len(self.index)

    def __iter__(self) -> Iterator[Score]:
        return (self[n] for n in range(len(self)))

    @overload
    def __getitem__(self, place: int) -> Score: ...

    @overload
    def __getitem__(self, place: slice) -> Scores: ...

    def __getitem__(self, place: int | slice) -> Score | Scores:
        """The score at a place, or the scores of several places."""
        if isinstance(place, slice):
            return replace(self, **{name: getattr(self, name)[place] for name in _ARRAYS})
        item, answered = self.items[place], self.exit[place] >= 0
        return Score(
            item.item() if isinstance(item, np.generic) else item,
            float(self.probability[place]) if answered else None,
            float(self.log_odds[place]) if answered else None,
            int(self.exit[place]) if answered else None,
            int(self.layers[place]),
            bool(self.cut_short[place]),
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Scores):
            return NotImplemented
        return self.index.tolist() == other.index.tolist() and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # arrays can change

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values: whether the user is `known`, the `scores` as objects, and the `stats`."""
        return {
            "known": self.stats.known_user,
            "scores": [score._asdict() for score in self],
            "stats": self.stats.to_dict(),
        }


_ARRAYS = tuple(part.name for part in fields(Scores) if part.name != "stats")
