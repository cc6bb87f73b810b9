"""`rexit.integrations` in the libraries themselves.

`make test-integrations` runs it, where they are installed; its name keeps it from being collected elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from haystack import Document as HaystackDocument
from haystack import Pipeline
from langchain_core.documents import Document
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

import rexit
from builders.bundles.reranker import write_reranker
from rexit.errors import InputError
from rexit.integrations.haystack import RexitRanker
from rexit.integrations.langchain import RexitRerank as Compressor
from rexit.integrations.llama_index import RexitRerank as Postprocessor

QUERY, TEXTS = "wing drag", ["heat flow", "wing", "layer layer", "drag heat wing", "flow"]
SCORES = [2.0, 5.0, 3.0, 1.0, 4.0]


@pytest.fixture(scope="module", params=[False, True], ids=["texts", "scores"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_reranker(tmp_path_factory.mktemp("reranker") / "bundle", zero=request.param)


@pytest.fixture(scope="module")
def reranker(bundle: Path) -> Iterator[rexit.Reranker]:
    with rexit.Reranker(bundle) as reranker:
        yield reranker


def best(reranker: rexit.Reranker, count: int) -> list[tuple[str, float]]:
    hits = reranker.rank(QUERY, TEXTS, count, scores={"bm25": SCORES} if reranker.info.scores else None)
    return [(TEXTS[hit["corpus_id"]], hit["score"]) for hit in hits]


def test_a_document_compressor_of_langchain(reranker: rexit.Reranker) -> None:
    documents = [Document(text, metadata={"bm25": score}) for text, score in zip(TEXTS, SCORES, strict=True)]
    compressor = Compressor(reranker=reranker, top_n=2)
    kept = compressor.compress_documents(documents, QUERY)
    assert [(document.page_content, document.metadata["relevance_score"]) for document in kept] == best(reranker, 2)
    assert asyncio.run(compressor.acompress_documents(documents, QUERY)) == kept
    assert all("bm25" in document.metadata for document in kept) and "relevance_score" not in documents[0].metadata
    assert compressor.compress_documents([], QUERY) == []
    if reranker.info.scores:
        with pytest.raises(InputError, match="no document's metadata has 'bm25'"):
            compressor.compress_documents([Document("wing")], QUERY)


def test_a_node_postprocessor_of_llama_index(reranker: rexit.Reranker) -> None:
    nodes = [NodeWithScore(node=TextNode(text=text), score=score) for text, score in zip(TEXTS, SCORES, strict=True)]
    postprocessor = Postprocessor(reranker=reranker, top_n=2)
    for kept in (
        postprocessor.postprocess_nodes(nodes, query_str=QUERY),
        asyncio.run(postprocessor.apostprocess_nodes(nodes, QueryBundle(QUERY))),
    ):
        assert [(node.text, node.score) for node in kept] == best(reranker, 2)
    assert postprocessor.postprocess_nodes([], query_str=QUERY) == []
    assert postprocessor.to_dict()["top_n"] == 2
    with pytest.raises(InputError, match="the query is missing"):
        postprocessor.postprocess_nodes(nodes)


def test_a_ranker_of_haystack(reranker: rexit.Reranker, bundle: Path) -> None:
    documents = [HaystackDocument(content=text, score=score) for text, score in zip(TEXTS, SCORES, strict=True)]
    pipeline = Pipeline()
    pipeline.add_component("ranker", RexitRanker(str(bundle), top_k=2))
    for same in (pipeline, Pipeline.loads(pipeline.dumps(), unsafe=True)):
        kept = same.run({"ranker": {"query": QUERY, "documents": documents}})["ranker"]["documents"]
        assert [(document.content, document.score) for document in kept] == best(reranker, 2)
    assert [document.score for document in documents] == SCORES
    assert len(pipeline.run({"ranker": {"query": QUERY, "documents": documents, "top_k": 4}})["ranker"]["documents"]) == 4
    assert RexitRanker(str(bundle)).run(QUERY, []) == {"documents": []}
