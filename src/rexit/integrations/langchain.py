"""LangChain's document compressor, for `ContextualCompressionRetriever` and chains. Needs the extra `langchain`."""

from __future__ import annotations

from collections.abc import Sequence

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from pydantic import ConfigDict

from rexit.errors import InputError
from rexit.rankers import Reranker

__all__ = ["RexitRerank"]


class RexitRerank(BaseDocumentCompressor):
    """Keeps the best documents of a query, best first. Their metadata get `relevance_score`, a probability.

    Attributes:
        reranker: Ranks; threads may share it.
        top_n: Documents that are kept; None: all.
        score_key: The first stage's score in the metadata, such as a retriever's; None: the bundle reads none.
    """

    reranker: Reranker
    top_n: int | None = 3
    score_key: str | None = None
    model_config = ConfigDict(arbitrary_types_allowed=True)

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        """Returns copies of the best documents. Raises what `Reranker.rank` raises."""
        texts = [document.page_content for document in documents]
        hits = self.reranker.rank(query, texts, self.top_n, scores=self._scores(documents))
        return [
            documents[hit["corpus_id"]].model_copy(
                update={"metadata": {**documents[hit["corpus_id"]].metadata, "relevance_score": hit["score"]}}
            )
            for hit in hits
        ]

    def _scores(self, documents: Sequence[Document]) -> list[float] | None:
        if self.score_key is None:
            return None
        for n, document in enumerate(documents):
            if self.score_key not in document.metadata:
                raise InputError(f"documents[{n}].metadata has no {self.score_key!r}, expected the first stage's score")
        return [document.metadata[self.score_key] for document in documents]
