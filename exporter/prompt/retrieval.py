"""What a prompt retrieves with: the catalog's own graph, or what was known before, where the graph knows the answer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rexit.bundle.catalog import Catalog
from rexit.exporter.catalog.neighbours import Neighbourhood


@dataclass(frozen=True)
class Graph:
    """A trained retriever: the users that can be similar, `items` and `fold_in` float16 [I, D]."""

    around: Neighbourhood
    items: NDArray[np.float16]
    fold_in: NDArray[np.float16]

    @classmethod
    def of(cls, catalog: Catalog) -> Graph:
        """The one that the runtime retrieves with."""
        users, items = catalog.user_table, catalog.item_table
        return cls(Neighbourhood(users["embeddings"], users["similar"].shape[1]), items["embeddings"], items["fold_in"])


class Snapshots:
    """snapshots.safetensors, as docs/format.md has it."""

    def __init__(self, catalog: Catalog) -> None:
        tables, neighbours = catalog.snapshots, catalog.user_table["similar"].shape[1]
        self._begins = tables["begins"]
        each = zip(tables["users"], tables["items"], tables["fold_in"], strict=True)
        self._graphs = [Graph(Neighbourhood(users, neighbours), items, fold_in) for users, items, fold_in in each]

    def part(self, user: int, as_of: int) -> int:
        """The part of the user's training that the moment falls into, from 0."""
        return int((self._begins[user] <= as_of).sum())

    def before(self, part: int) -> Graph | None:
        """What had been learned before a part; None for the first."""
        return self._graphs[part - 1] if part else None
