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
from builders.bundles.bundle_files import write_policy
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


def test_a_floor_leaves_out_what_is_below(tmp_path: Path) -> None:
    """With a floor between the second and the third."""
    path = write_reranker(tmp_path / "bundle")
    with rexit.Reranker(path) as reranker:
        second, third = (hit["log_odds"] for hit in reranker.rank(QUERY, TEXTS)[1:3])
    exits = [{"a": 1.0, "b": 0.0, "upper": None, "lower": None}] * 3
    write_policy(path, exits, floor={"c": (second + third) / 2, "recall": 0.95, "confidence": 0.95, "users": 90})
    with rexit.Reranker(path) as reranker:
        expected = [TEXTS[hit["corpus_id"]] for hit in reranker.rank(QUERY, TEXTS, floor=True)]
        documents = [Document(text) for text in TEXTS]
        compressed = Compressor(reranker=reranker, top_n=None, floor=True).compress_documents(documents, QUERY)
        nodes = [NodeWithScore(node=TextNode(text=text)) for text in TEXTS]
        processed = Postprocessor(reranker=reranker, top_n=None, floor=True).postprocess_nodes(nodes, query_str=QUERY)
    component = RexitRanker(str(path), top_k=None, floor=True)
    texts = [HaystackDocument(content=text) for text in TEXTS]
    for same in (component, RexitRanker.from_dict(component.to_dict())):
        assert [document.content for document in same.run(QUERY, texts)["documents"]] == expected
    assert [document.page_content for document in compressed] == [node.text for node in processed] == expected
    assert len(expected) == 2
