"""What an encoder learns from: pairs of a query and a document, drawn anew for every pass over a file of slates.

1. A row is a query with `slate` documents: a relevant one first, then others. Half of these are its own, which the first stage
   found, and half come from any query: a model that never read pairs learns by them first.
2. Queries whose documents are all relevant, or none is, are left out.
3. A batch has rows of similar length, as many as `batch_tokens` allows with their pairs padded to the longest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from rexit.errors import InputError
from rexit.exporter.model.training import POOL, Row, Rows, batches
from rexit.exporter.options import TrainOptions
from rexit.exporter.prompt.builder import Prompt
from rexit.prompts.slates_file import Query, SlatesFile
from rexit.prompts.texts import TextEncoder


class Pairs:
    """Draws the pairs of a training. Raises InputError for a file without queries, or without any that can be learned from."""

    def __init__(self, source: SlatesFile, encoder: TextEncoder, options: TrainOptions, rng: np.random.Generator) -> None:
        self._encoder, self._options, self._rng = encoder, options, rng
        self._others = options.slate_size(False) - 1
        if not self._others:
            raise InputError("--slate 1, expected at least 2: an encoder learns the order of a query's documents")
        queries = source.queries("train")
        self._queries = [query for query in queries if any(query.liked) and not all(query.liked)]
        self._documents = [document for query in queries for document in query.documents]
        if not self._queries:
            raise InputError(
                f"{source.path}: none of {len(queries)} training slates has relevant and other candidates, expected some to "
                "learn their order from"
            )

    def drawn(self, steps: int, track: Callable[[Sequence[Any]], Iterable[Any]]) -> tuple[Rows, list[list[int]], int]:
        """Returns rows, batches of them and the number of passes: enough for `steps`, or if it is 0 for the option `epochs`."""
        rows: list[Row] = []
        chosen: list[list[int]] = []
        passes = 0
        while len(chosen) < steps if steps else passes < self._options.epochs:
            order = self._rng.permutation(len(self._queries))
            for part in np.array_split(order, math.ceil(len(order) / POOL)):
                if steps and len(chosen) >= steps:
                    break
                new = [self._row(self._queries[n]) for n in track(part.tolist())]
                lengths = np.array([len(row.liked) * max(map(len, row.prompt.candidates)) for row in new], np.int64)
                parts = batches(lengths, self._options.step_tokens(False), self._rng)
                chosen += [[len(rows) + n for n in batch] for batch in parts]
                rows += new
            passes += 1
        return Rows(rows, None), chosen, passes

    def _row(self, query: Query) -> Row:
        relevant, others = (
            [document for document, liked in zip(query.documents, query.liked, strict=True) if liked is kind]
            for kind in (True, False)
        )
        hard = self._drawn(others, min(math.ceil(self._others / 2), len(others)), replace=False)
        drawn = self._drawn(self._documents, self._others - len(hard))
        any_query = [document if document not in relevant else self._drawn(others, 1)[0] for document in drawn]
        _, tokens = self._encoder.prompt(query.text, [*self._drawn(relevant, 1), *hard, *any_query])
        candidates, nothing = [np.array(ids, np.int32) for ids in tokens], np.zeros(0, np.int32)
        return Row(query.group, Prompt(nothing, candidates, nothing.astype(np.int64), None), np.arange(len(candidates)) == 0)

    def _drawn(self, documents: Sequence[str], count: int, replace: bool = True) -> list[str]:
        return [documents[n] for n in self._rng.choice(len(documents), count, replace)]
