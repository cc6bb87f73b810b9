"""Haystack's ranker, a component of pipelines. Needs the extra `haystack`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from haystack import Document, component, default_from_dict, default_to_dict

from rexit.doors.rankers import Reranker
from rexit.integrations import stage_scores

__all__ = ["RexitRanker"]


@component
class RexitRanker:
    """Keeps the best documents of a query, best first. Their scores become probabilities. Where the bundle's exit zero reads
    one first stage's scores, it reads those that they had; of several, those in their `meta` by name.

    Args:
        bundle: The bundle's folder.
        top_k: Documents that are kept; None: all.
        floor: Whether documents below the policy's floor are left out; then there may be none.
        sessions: As for `rexit.Reranker`.
    """

    def __init__(self, bundle: str, top_k: int | None = 10, floor: bool = False, sessions: int = 1) -> None:
        self.bundle, self.top_k, self.floor, self.sessions = bundle, top_k, floor, sessions
        self._reranker: Reranker | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns the component for a pipeline's file."""
        described: dict[str, Any] = default_to_dict(
            self, bundle=self.bundle, top_k=self.top_k, floor=self.floor, sessions=self.sessions
        )
        return described

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> RexitRanker:
        """Returns the component of a pipeline's file."""
        ranker: RexitRanker = default_from_dict(cls, data)
        return ranker

    def warm_up(self) -> None:
        """Opens the bundle. Raises what `rexit.Reranker` raises."""
        if self._reranker is None:
            self._reranker = Reranker(self.bundle, sessions=self.sessions)

    @component.output_types(documents=list[Document])
    def run(self, query: str, documents: list[Document], top_k: int | None = None) -> dict[str, list[Document]]:
        """Returns copies of the best documents as `documents`. Raises what `Reranker.rank` raises.

        Args:
            query: The query.
            documents: The documents. One without a text is an empty text.
            top_k: In the place of the component's own.
        """
        self.warm_up()
        assert self._reranker is not None
        texts = [document.content or "" for document in documents]
        own, metadata = [document.score for document in documents], [document.meta for document in documents]
        scores = stage_scores(self._reranker.info.scores, metadata, own)
        top_k = self.top_k if top_k is None else top_k
        hits = self._reranker.rank(query, texts, top_k, scores=scores, floor=self.floor)
        return {"documents": [replace(documents[hit["corpus_id"]], score=hit["score"]) for hit in hits]}
