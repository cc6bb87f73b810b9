"""LangChain's document compressor, for `ContextualCompressionRetriever` and chains. Needs the extra `langchain`."""

from __future__ import annotations

from collections.abc import Sequence

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from pydantic import ConfigDict

from rexit.doors.rankers import Reranker
from rexit.integrations import stage_scores

__all__ = ["RexitRerank"]


class RexitRerank(BaseDocumentCompressor):
    """Keeps the best documents of a query, best first. Their metadata get `relevance_score`, a probability.

    Attributes:
        reranker: Ranks; threads may share it.
        top_n: Documents that are kept; None: all.
        floor: Whether documents below the policy's floor are left out; then there may be none.

    Where the bundle's exit zero reads first stages' scores, these are in the documents' metadata by name.
    """

    reranker: Reranker
    top_n: int | None = 3
    floor: bool = False
    model_config = ConfigDict(arbitrary_types_allowed=True)

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        """Returns copies of the best documents. Raises what `Reranker.rank` raises."""
        texts = [document.page_content for document in documents]
        scores = stage_scores(self.reranker.info.scores, [document.metadata for document in documents])
        hits = self.reranker.rank(query, texts, self.top_n, scores=scores, floor=self.floor)
        return [
            documents[hit["corpus_id"]].model_copy(
                update={"metadata": {**documents[hit["corpus_id"]].metadata, "relevance_score": hit["score"]}}
            )
            for hit in hits
        ]
