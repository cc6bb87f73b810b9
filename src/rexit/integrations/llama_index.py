"""LlamaIndex's node postprocessor, for query engines and retrievers. Needs the extra `llama-index`."""

from __future__ import annotations

from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle
from pydantic import Field

from rexit.doors.rankers import Reranker
from rexit.errors import InputError
from rexit.integrations import stage_scores

__all__ = ["RexitRerank"]


class RexitRerank(BaseNodePostprocessor):
    """Keeps the best nodes of a query, best first. Their scores become probabilities. Where the bundle's exit zero reads one
    first stage's scores, it reads those that they had; of several, those in their metadata by name.

    Attributes:
        reranker: Ranks; threads may share it.
        top_n: Nodes that are kept; None: all.
        floor: Whether nodes below the policy's floor are left out; then there may be none.
    """

    reranker: Reranker = Field(exclude=True)
    top_n: int | None = 3
    floor: bool = False

    @classmethod
    def class_name(cls) -> str:
        """Returns the name by which LlamaIndex knows it."""
        return "RexitRerank"

    def _postprocess_nodes(self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None) -> list[NodeWithScore]:
        if query_bundle is None:
            raise InputError("the query is missing, expected query_bundle or query_str")
        texts = [node.node.get_content(metadata_mode=MetadataMode.EMBED) for node in nodes]
        scores = stage_scores(self.reranker.info.scores, [node.metadata for node in nodes], [node.score for node in nodes])
        hits = self.reranker.rank(query_bundle.query_str, texts, self.top_n, scores=scores, floor=self.floor)
        return [NodeWithScore(node=nodes[hit["corpus_id"]].node, score=hit["score"]) for hit in hits]
