"""Candidates: which items make the slates of a catalog, beside what users liked.

| kind           | a slate has                                                                                                |
|----------------|------------------------------------------------------------------------------------------------------------|
| `rated`        | the user's own interactions, liked or not: ratings, or impressions                                         |
| `uniform:N`    | those, and N items for each like, each unmet item with the same chance                                     |
| `popularity:N` | those, and N items for each like, by the number of training interactions                                   |
| `retrieved:N`  | the N items that the look-up puts first, the likes among them or not                                       |

Drawn and retrieved candidates are in slates alone: no history, table or count has them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rexit.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# NumPy is imported where it is used: the command line reads the defaults for its help.

COUNTS = {"rated": 0, "uniform": 9, "popularity": 9, "retrieved": 100}
"""The kinds, each with its default N."""
MAX_COUNT = 1 << 16
EXPECTED = "rated, uniform[:N], popularity[:N] or retrieved[:N]"


@dataclass(frozen=True)
class Candidates:
    """A choice of candidates. count: N; 0 with `rated`."""

    kind: str = "rated"
    count: int = 0

    @classmethod
    def parse(cls, text: str) -> Candidates:
        """Raises InputError for an unknown kind or a number that it cannot have."""
        kind, colon, digits = text.partition(":")
        if kind not in COUNTS or (colon and kind == "rated"):
            raise InputError(f"candidates {text!r}, expected {EXPECTED}")
        if not colon:
            return cls(kind, COUNTS[kind])
        if not re.fullmatch(r"[0-9]{1,9}", digits, re.ASCII) or not 1 <= int(digits) <= MAX_COUNT:
            raise InputError(f"candidates {text!r}: N is {digits!r}, expected a whole number from 1 to {MAX_COUNT}")
        return cls(kind, int(digits))

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> Candidates:
        """Returns the candidates of a catalog. info: catalog.json."""
        entry = info.get("candidates", {})
        return cls(entry.get("kind", "rated"), entry.get("count", 0))

    @property
    def drawn(self) -> bool:
        """Whether negatives are drawn beside the likes."""
        return self.kind in ("uniform", "popularity")

    @property
    def retrieved(self) -> bool:
        """Whether the look-up chooses the candidates."""
        return self.kind == "retrieved"

    def __str__(self) -> str:
        return f"{self.kind}:{self.count}" if self.count else self.kind


@dataclass(frozen=True)
class Met:
    """The items that each of P owners had met: `owner` and `item`, int64 [m], distinct and ascending by (owner, item)."""

    owner: NDArray[np.int64]
    item: NDArray[np.int64]

    @classmethod
    def of(cls, owner: NDArray[np.int64], item: NDArray[np.int64], items: int) -> Met:
        """Sorts pairs, which may repeat. items: number of items."""
        import numpy as np

        keys = np.unique(owner.astype(np.int64) * items + item)
        return cls(keys // items, keys % items)


def unmet_counts(met: Met, owners: int, weights: NDArray[np.float64]) -> NDArray[np.int64]:
    """Returns how many items of positive weight each owner has not met: int64 [owners]."""
    import numpy as np

    counted = met.owner[weights[met.item] > 0]
    return np.asarray(np.count_nonzero(weights > 0) - np.bincount(counted, minlength=owners), np.int64)


def draw_unmet(
    owners: NDArray[np.int64], met: Met, weights: NDArray[np.float64], count: int, seed: int | Sequence[int]
) -> NDArray[np.int64]:
    """Draws items that owners had not met, one after the other without replacement within a row, by weight.

    Proposals by weight are rejected if the owner met the item or the row has it, which gives the same distribution as drawing
    among the rest; a row that rejects too often is drawn from its rest.

    Args:
        owners: int64 [n], the owner of each row.
        met: what owners met.
        weights: float64 [I], of each item; an item of weight 0 is never drawn.
        count: items of a row; every owner of a row has at least so many unmet items of positive weight.
        seed: of the draw.

    Returns:
        int64 [n, count].
    """
    import numpy as np

    rng, items = np.random.default_rng(seed), len(weights)
    keys, cumulative = met.owner * items + met.item, np.cumsum(weights)
    rows = np.full((len(owners), count), -1, np.int64)
    for column in range(count):
        pending = np.arange(len(owners))
        for _ in range(_MAX_PROPOSALS):
            proposed = np.minimum(np.searchsorted(cumulative, rng.random(len(pending)) * cumulative[-1], "right"), items - 1)
            key = owners[pending] * items + proposed
            place = np.searchsorted(keys, key)
            refused = place < len(keys)
            refused[refused] = keys[place[refused]] == key[refused]
            refused |= (rows[pending, :column] == proposed[:, None]).any(1) | (weights[proposed] <= 0)
            rows[pending[~refused], column] = proposed[~refused]
            pending = pending[refused]
            if not len(pending):
                break
        for row in pending.tolist():
            rest = weights.copy()
            rest[met.item[slice(*np.searchsorted(met.owner, [owners[row], owners[row] + 1]))]] = 0
            rest[rows[row, :column]] = 0
            rows[row, column] = rng.choice(items, p=rest / rest.sum())
    return rows


_MAX_PROPOSALS = 64
