"""What rerankers' clients send, and what they read in the answer. tests/doors/serve/requests has their requests."""

import json
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders.bundles.bundle_files import write_json
from builders.bundles.reranker import ids, write_reranker
from rexit import Request, runtime
from rexit.data.texts import TextEncoder
from rexit.doors.pool import Pool, TextsJob
from rexit.runtime import Scores
from running.service import Reply, Service, serving

REQUESTS = Path(__file__).parent / "requests"
DOCUMENTS = ["heat flow", "wing", "layer layer", "drag heat wing", "flow"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_reranker(tmp_path_factory.mktemp("reranker") / "bundle")


@pytest.fixture(scope="module")
def service(bundle: Path) -> Iterator[Service]:
    with serving(Pool(partial(runtime.open, bundle), 2, 4)) as service:
        yield service


@pytest.fixture(scope="module")
def session(bundle: Path) -> Iterator[runtime.Session]:
    with runtime.open(bundle) as session:
        yield session


def post(service: Service, path: str, **fields: Any) -> Reply:
    return service.ask("POST", path, json.dumps(fields).encode())


def send(service: Service, name: str) -> Reply:
    request = json.loads((REQUESTS / f"{name}.json").read_text())
    reply = post(service, request["path"], **request["body"])
    assert reply.status == 200, reply.text
    return reply


def reranked(session: runtime.Session, query: str, documents: list[str]) -> Scores:
    return session.score(Request.tokens(ids(f"<s> A : {query}"), [ids(f"B : {text} ? </s>") for text in documents]))


def test_best_first(service: Service, session: runtime.Session) -> None:
    reply = post(service, "/v1/rerank", query="wing drag", documents=DOCUMENTS)
    expected = reranked(session, "wing drag", DOCUMENTS)
    order = np.argsort(-expected.log_odds, kind="stable").tolist()
    rows = reply.json["results"]
    assert [row["index"] for row in rows] == order
    assert [row["relevance_score"] for row in rows] == pytest.approx(expected.probability[order].tolist(), abs=1e-5)
    top = post(service, "/v1/rerank", query="wing drag", documents=DOCUMENTS, top_n=2, return_documents=True).json["results"]
    assert [row["index"] for row in top] == order[:2]
    assert [row["document"] for row in top] == [{"text": DOCUMENTS[n]} for n in order[:2]]
    beyond = post(service, "/v1/rerank", query="wing drag", documents=DOCUMENTS, top_n=99).json["results"]
    assert len(beyond) == len(DOCUMENTS)


def test_the_first_stages_scores(tmp_path: Path) -> None:
    bundle = write_reranker(tmp_path / "bundle", zero=True)
    with serving(Pool(partial(runtime.open, bundle), 1, 4)) as service:
        scored = post(service, "/v1/rerank", query="wing drag", documents=DOCUMENTS, scores={"bm25": [5, 4, 3, None, 1]}, top_n=2)
        assert scored.status == 200 and len(scored.json["results"]) == 2
        nothing = post(service, "/v1/rerank", query="wing drag", documents=DOCUMENTS, scores={"bm25": None})
        missing = post(service, "/v1/rerank", query="wing drag", documents=DOCUMENTS)
        short = post(service, "/rerank", query="wing drag", texts=DOCUMENTS, scores={"bm25": [5, 4]})
        for name in ("jina", "llama_index_tei", "cohere_v2"):
            request = json.loads((REQUESTS / f"{name}.json").read_text())
            reply = post(service, request["path"], **request["body"])
            assert reply.status == 422 and reply.json["error"].startswith("scores is missing, expected a number"), reply.text
    assert missing.status == short.status == 422 and "scores" in missing.text and "scores.bm25 has 2" in short.text
    assert nothing.status == 422 and nothing.json["error"].startswith("scores is empty, expected a number"), "as /v1/score says"


SENT = ["A wing at high speed", "Heat flow in a layer"]
"""The documents of the recorded requests."""


@pytest.fixture(scope="module")
def sent(session: runtime.Session) -> tuple[int, float]:
    """The better of these documents, and its score."""
    scores = reranked(session, "drag <unk> <unk> wing", ["A wing <unk> <unk> <unk>", "<unk> flow <unk> <unk> layer"])
    return int(scores.log_odds.argmax()), float(scores.probability.max())


@pytest.mark.parametrize(
    ("name", "rows", "document"),
    [("cohere_v1", 1, True), ("cohere_v2", 1, False), ("jina", 2, False), ("litellm_hosted_vllm", 1, True)],
)
def test_clients_of_rerankers(service: Service, sent: tuple[int, float], name: str, rows: int, document: bool) -> None:
    answer = send(service, name).json
    assert len(answer["results"]) == rows and isinstance(answer["id"], str)
    best = answer["results"][0]
    assert (best["index"], best["relevance_score"]) == (sent[0], pytest.approx(sent[1], abs=1e-5))
    assert best.get("document") == ({"text": SENT[sent[0]]} if document else None)
    assert answer["usage"]["total_tokens"] == answer["meta"]["tokens"]["input_tokens"] > 0


@pytest.mark.parametrize(("name", "rows", "text"), [("llama_index_tei", 2, False), ("litellm_huggingface", 1, True)])
def test_clients_of_text_embeddings_inference(
    service: Service, sent: tuple[int, float], name: str, rows: int, text: bool
) -> None:
    best, *rest = send(service, name).json
    shown = {"text": SENT[sent[0]]} if text else {}
    assert best == {"index": sent[0], "score": pytest.approx(sent[1], abs=1e-5), **shown} and len(rest) == rows - 1


@pytest.mark.parametrize(
    ("path", "fields", "problem"),
    [
        ("/v1/rerank", {"documents": ["x"]}, "body: `query` is missing"),
        ("/v1/rerank", {"query": "x"}, "body: `documents` is missing"),
        ("/v1/rerank", {"query": "x", "documents": []}, "body: documents: is [], expected an array of length >= 1"),
        ("/v1/rerank", {"query": "x", "documents": ["x", {"title": "y"}]}, "body: documents[1]: `text` is missing"),
        ("/v1/rerank", {"query": "x", "documents": ["x"], "top_n": 0}, "body: top_n: is 0, expected an integer >= 1"),
        ("/v1/rerank", {"query": "x", "documents": ["x"], "deadline_ms": 0}, "body: deadline_ms: is 0, expected a number > 0.0"),
        ("/v1/rerank", {"query": "x", "documents": ["x"], "top_n": 1, "top_k": 2}, "top_k is 2, but top_n is 1: expected one"),
        ("/v1/rerank", {"query": "x", "documents": ["x"], "instruction": "y"}, "template has no place for an instruction"),
        (
            "/v1/rerank",
            {"query": "x", "documents": ["x"], "rank_fields": ["title"]},
            "rank_fields is ['title'], expected ['text']",
        ),
        ("/v1/rerank", {"query": "x", "documents": ["x"], "max_chunks_per_doc": 1}, "max_chunks_per_doc is 1, expected max_tok"),
        ("/v1/rerank", {"query": "x", "documents": ["x"], "raw_scores": True}, "raw_scores is true, expected false"),
        ("/rerank", {"query": "x", "texts": ["x"], "truncation_direction": "Left"}, "truncation_direction: is 'Left', expected"),
        (
            "/rerank",
            {"query": "x", "texts": ["x", "x " * 99], "truncate": False},
            "documents[1], or the query with it, would be cut",
        ),
        (
            "/rerank",
            {"query": "x", "texts": ["x", "x " * 99]},
            "documents[1], or the query with it, would be cut",
        ),  # TEI's own default
        (
            "/v1/rerank",
            {"query": "x", "documents": ["x", "x " * 99], "truncation": False},
            "documents[1], or the query with it, would",
        ),
        (
            "/v1/rerank",
            {"query": "x", "documents": ["x x"], "truncation": False, "max_tokens_per_doc": 1},
            "documents[0], or the query with it, would be cut, and truncation is false",
        ),
        ("/v1/rerank", {"query": "x", "documents": [""] * 10_001}, "documents has 10001 entries, expected at most 10000"),
        ("/v1/rerank", {"query": "\ud800", "documents": ["x"]}, "body: not valid JSON: "),
        ("/v1/rerank", {"query": "wing " * 200, "documents": ["x"]}, "the query is too long"),
        ("/v1/score", {"user": 100, "items": [3]}, "catalog"),
    ],
)
def test_what_is_refused(service: Service, path: str, fields: dict[str, Any], problem: str) -> None:
    reply = post(service, path, **fields)
    assert reply.status == 422 and problem in reply.json["error"] and "\n" not in reply.json["error"], reply.text


@pytest.mark.parametrize("body", [b"5", b"null", b"true", b"[]", b'"texts"'])
def test_a_body_that_is_no_object(service: Service, body: bytes) -> None:
    reply = service.ask("POST", "/rerank", body)
    assert reply.status == 422 and re.fullmatch(r"body: is .*, expected an object", reply.json["error"]), reply.text


def test_fields_of_the_dialects(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    fields = {"query": "wing drag", "documents": DOCUMENTS}
    plain = post(service, "/v1/rerank", **fields).json["results"]
    without_effect = {"user": "u", "priority": 1, "raw_scores": False, "rank_fields": ["text"], "truncation": True}
    nulls = dict.fromkeys(["instruction", "top_n", "max_chunks_per_doc", "return_documents"])
    with caplog.at_level("WARNING", "rexit"):
        for _ in range(2):
            assert post(service, "/v1/rerank", **fields, **without_effect, **nulls, flavour=1).json["results"] == plain
    assert [record.getMessage() for record in caplog.records] == ["rerank: the field 'flavour' is not known and ignored"]
    assert post(service, "/v1/rerank", **fields, top_k=2).json["results"] == plain[:2]
    cut = post(service, "/v1/rerank", **fields, max_tokens_per_doc=1).json["results"]
    firsts = post(service, "/v1/rerank", query="wing drag", documents=[text.split()[0] for text in DOCUMENTS]).json["results"]
    assert [(row["index"], row["relevance_score"]) for row in cut] == [(row["index"], row["relevance_score"]) for row in firsts]
    assert [row["index"] for row in cut if row.get("truncated")] == [
        row["index"] for row in cut if " " in DOCUMENTS[row["index"]]
    ]


def test_an_instruction(tmp_path: Path, session: runtime.Session) -> None:
    folder = write_reranker(tmp_path / "bundle")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["reranker"] |= {"prefix": ["<s>", "{instruction} : {query}"], "instruction": "A"}
    write_json(folder / "manifest.json", manifest)
    with serving(Pool(partial(runtime.open, folder), 1, 4)) as service:
        for instruction in ("A", "B"):
            reply = post(service, "/v1/rerank", query="wing", documents=["heat"], instruction=instruction)
            expected = relevance(session, f"<s> {instruction} : wing")
            assert reply.json["results"][0]["relevance_score"] == pytest.approx(expected, abs=1e-5)


def test_identical_documents_keep_their_order(service: Service) -> None:
    rows = post(service, "/v1/rerank", query="wing", documents=["drag heat"] * 8).json["results"]
    assert [row["index"] for row in rows] == list(range(8)) and len({row["relevance_score"] for row in rows}) == 1


def test_texts_in_a_full_queue_are_refused(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, opened = TextEncoder.prompt_with_cuts, threading.Event()

    def prompt(encoder: TextEncoder, *words: Any) -> Any:
        assert opened.wait(30)
        return real(encoder, *words)

    monkeypatch.setattr(TextEncoder, "prompt_with_cuts", prompt)
    with serving(Pool(partial(runtime.open, bundle), 1, 1)) as service, ThreadPoolExecutor(8) as clients:
        replies = [clients.submit(post, service, "/v1/rerank", query="wing", documents=DOCUMENTS) for _ in range(8)]
        for _, reply in zip(range(6), as_completed(replies, 20), strict=False):
            assert reply.result().status == 503
        opened.set()
        assert sorted(reply.result().status for reply in replies) == [200] * 2 + [503] * 6


def replace_prompt(folder: Path) -> None:
    """Puts a bundle with another template at the place of `folder`."""
    write_reranker(newer := folder.with_name("newer"))
    manifest = json.loads((newer / "manifest.json").read_text())
    manifest["reranker"]["prefix"] = ["<s>", "B : {query}"]
    write_json(newer / "manifest.json", manifest)
    folder.rename(folder.with_name("older"))
    newer.rename(folder)


def relevance(session: runtime.Session, prefix: str) -> float:
    return float(session.score(Request.tokens(ids(prefix), [ids("B : heat ? </s>")])).probability[0])


def test_a_request_that_waits_across_a_reload_gets_the_newer_prompt(
    tmp_path: Path, session: runtime.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_reranker(tmp_path / "bundle")
    pool = Pool(partial(runtime.open, folder), 1, 4)
    real, reached, opened = runtime.Session.score, threading.Event(), threading.Event()

    def score(scoring: runtime.Session, *words: Any, **keywords: Any) -> Scores:
        reached.set()
        assert opened.wait(30)
        return real(scoring, *words, **keywords)

    monkeypatch.setattr(runtime.Session, "score", score)
    jobs = [TextsJob(query="wing", documents=["heat"]) for _ in range(2)]
    pool.submit(jobs[0])
    assert reached.wait(30)
    pool.submit(jobs[1])
    replace_prompt(folder)
    pool.reload()
    opened.set()
    actual = [job.future.result(30).content.scores[0].probability for job in jobs]
    pool.close()
    assert actual == pytest.approx([relevance(session, "<s> A : wing"), relevance(session, "<s> B : wing")], abs=1e-5)


def test_routes_of_text_embeddings_inference(service: Service) -> None:
    assert service.get("/health").status == 200
    info = service.get("/info").json
    assert (info["model_id"], info["model_dtype"], info["max_client_batch_size"]) == ("cpu-fp32", "fp32", 10_000)
    assert "reranker" in info["model_type"] and info["auto_truncate"] is False
    texts = ["x", "x " * 99]
    assert post(service, "/rerank", query="x", texts=texts, truncate=True).status == 200


def test_a_document_longer_than_a_pass_is_read_whole_and_a_cut_is_said(bundle: Path, session: runtime.Session) -> None:
    assert session.info.max_tokens < 40 < session.info.max_positions < 200
    documents = ["wing " * 40 + word for word in ("drag", "heat")] + ["flow " * 200]
    with serving(Pool(partial(runtime.open, bundle), 1, 4)) as service:
        rows = post(service, "/v1/rerank", query="wing", documents=documents).json["results"]
        assert "rexit_documents_truncated_total 1.0" in service.get("/metrics").text
    expected = reranked(session, "wing", documents[:2]).probability
    by_index = {row["index"]: row for row in rows}
    assert [by_index[n]["relevance_score"] for n in (0, 1)] == pytest.approx(expected.tolist(), abs=1e-5)
    assert [by_index[n].get("truncated") for n in range(3)] == [None, None, True] and abs(expected[0] - expected[1]) > 1e-4


def test_a_deadline_of_documents(service: Service) -> None:
    late = post(service, "/v1/rerank", query="wing", documents=DOCUMENTS, deadline_ms=0.001)
    assert late.status == 504 and "the deadline of 0.001 ms passed" in late.json["error"]
    assert post(service, "/v1/rerank", query="wing", documents=DOCUMENTS, deadline_ms=60_000).status == 200
