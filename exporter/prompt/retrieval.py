"""The retriever of a prompt: the catalog's own graph, or a snapshot where that graph would know the answer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rexit.bundle.catalog import Catalog
from rexit.exporter.retriever.neighbours import Lists, Neighbourhood


@dataclass(frozen=True)
class Graph:
    """A trained retriever. around: the search for similar users. items, fold_in: float16 [I, D]."""

    around: Neighbourhood
    items: NDArray[np.float16]
    fold_in: NDArray[np.float16]

    @classmethod
    def of(cls, catalog: Catalog) -> Graph:
        """The catalog's own graph, which the runtime uses."""
        items, neighbours = catalog.item_table, catalog.user_table["similar"].shape[1]
        around = Neighbourhood(catalog.user_embeddings, neighbours, Lists.of(catalog))
        return cls(around, items["embeddings"], items["fold_in"])


class Snapshots:
    """snapshots.safetensors, see docs/format.md."""

    def __init__(self, catalog: Catalog) -> None:
        self._tables, self._neighbours = catalog.snapshots, catalog.user_table["similar"].shape[1]
        self._graphs: dict[int, Graph] = {}

    def part(self, user: int, as_of: int) -> int:
        """The part of the user's training interactions at a moment, from 0."""
        return int((self._tables["begins"][user] <= as_of).sum())

    def before(self, part: int) -> Graph | None:
        """The snapshot before a part; None for part 0."""
        if part and part not in self._graphs:
            users, items, fold_in = (self._tables[name][part - 1] for name in ("users", "items", "fold_in"))
            self._graphs[part] = Graph(Neighbourhood(users, self._neighbours, Lists.needed(users)), items, fold_in)
        return self._graphs.get(part)
