"""`rexit rerank`: documents in the order of the scores of the prompts that the reranker reads."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from builders.bundles.bundle import write_bundle
from builders.bundles.bundle_files import add_tokenizer, drop_catalog
from builders.bundles.reranker import ids, words_tokenizer, write_reranker
from builders.policies import full_depth
from rexit import Request, runtime
from rexit.format.bundle import Bundle, TopK
from running.command import Run, assert_one_line

DOCUMENTS = ["heat flow", "wing", "layer layer", "drag heat wing", "flow"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_reranker(tmp_path_factory.mktemp("reranker") / "bundle")


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    path = tmp_path / "documents.txt"
    path.write_text("\n".join(DOCUMENTS) + "\n")
    return path


def test_documents_are_ranked_by_the_prompts_scores(run: Run, bundle: Path, documents: Path, tmp_path: Path) -> None:
    ended = run("rerank", bundle, "--query", "wing drag", "--documents", documents, "--json")
    assert ended.code == 0
    with runtime.open(bundle) as session:
        candidates = [ids(f"B : {text} ? </s>") for text in DOCUMENTS]
        expected = session.score(Request.tokens(ids("<s> A : wing drag"), candidates))
    order = np.argsort(-expected.log_odds, kind="stable").tolist()
    rows = ended.json["results"]
    assert [row["index"] for row in rows] == order and [row["text"] for row in rows] == [DOCUMENTS[n] for n in order]
    assert [row["relevance_score"] for row in rows] == pytest.approx(expected.probability[order].tolist())
    lines = tmp_path / "documents.jsonl"
    lines.write_text("".join(json.dumps(x) + "\n" for x in [DOCUMENTS[0], *({"text": t, "id": 3} for t in DOCUMENTS[1:])]))
    same = run("rerank", bundle, "--query", "wing drag", "--documents", lines, "--json", "--top-n", 2)
    assert same.json["results"] == rows[:2]


def test_the_first_stages_scores(run: Run, tmp_path: Path) -> None:
    bundle, path = write_reranker(tmp_path / "bundle", zero=True), tmp_path / "documents.jsonl"
    words = ("rerank", bundle, "--query", "wing drag", "--documents", path, "--json")
    rows = [{"text": text, "scores": {"bm25": 2.5 - n}} for n, text in enumerate(DOCUMENTS)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ended = run(*words)
    assert ended.code == 0, ended.err
    with runtime.open(bundle) as session:
        candidates = [ids(f"B : {text} ? </s>") for text in DOCUMENTS]
        request = Request.tokens(ids("<s> A : wing drag"), candidates, {"bm25": [2.5 - n for n in range(len(rows))]})
        expected = session.score(request, top_k=len(rows))
    assert [(row["index"], row["exit"]) for row in ended.json["results"]] == [
        (index, score.exit) for index, score in zip(expected.index.tolist(), expected, strict=True)
    ]
    path.write_text('"wing"\n' + json.dumps(rows[0]) + "\n")
    assert len(run(*words).json["results"]) == 2, "a document may lack a score"
    path.write_text('"wing"\n')
    assert_one_line(run(*words), 2, "scores is missing, expected a number for each candidate: exit zero reads bm25")
    path.write_text('{"text": "wing", "scores": {"vector": 1}}\n')
    assert_one_line(run(*words), 2, "scores.vector: exit zero reads no such score, it reads bm25")


@pytest.mark.parametrize("suffix", [".txt", ".jsonl"])
def test_only_line_feeds_end_a_document(run: Run, bundle: Path, tmp_path: Path, suffix: str) -> None:
    texts = ["heat\u2028flow", "wing\x85drag", "layer\x0cflow", "\x0bheat\x1cwing\u2029"]
    path = tmp_path / f"documents{suffix}"
    lines = texts if suffix == ".txt" else [json.dumps(text, ensure_ascii=False) for text in texts]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join([*lines, ""]).encode())
    ended = run("rerank", bundle, "--query", "wing", "--documents", path, "--json")
    assert ended.code == 0, ended.err
    assert {row["index"]: row["text"] for row in ended.json["results"]} == dict(enumerate(texts))


def test_the_number_of_answers_is_not_the_policys_k(run: Run, documents: Path, tmp_path: Path) -> None:
    """With a K of all documents everybody would be among the best K, and stop at the first exit."""
    bundle = write_reranker(tmp_path / "bundle")
    opened = Bundle.open(bundle)
    policy, bounds = full_depth(len(opened.manifest.exits), opened.variant_sha256), (50.0,) * 2
    replace(policy, top_k=TopK(1, False, bounds, bounds)).write(opened.folder / "policy.json")
    words = ("rerank", bundle, "--query", "wing drag", "--documents", documents, "--json")
    for more in ((), ("--top-n", len(DOCUMENTS)), ("--top-n", 99)):
        assert {row["exit"] for row in run(*words, *more).json["results"]} == {2}, more


@pytest.mark.parametrize("text", ["wing\n\ndrag\n \n", "wing\n\ndrag\n "])
def test_an_index_is_a_lines(run: Run, bundle: Path, tmp_path: Path, text: str) -> None:
    """An empty line is an empty document: without it, the next one's index would be another line's."""
    (path := tmp_path / "documents.txt").write_text(text)
    ended = run("rerank", bundle, "--query", "wing", "--documents", path, "--json")
    assert {row["index"]: row["text"] for row in ended.json["results"]} == {0: "wing", 1: "", 2: "drag", 3: " "}


@pytest.mark.parametrize("suffix", ["txt", "jsonl"])
def test_no_documents_are_no_results(run: Run, bundle: Path, tmp_path: Path, suffix: str) -> None:
    (path := tmp_path / f"documents.{suffix}").write_text("")
    ended = run("rerank", bundle, "--query", "wing", "--documents", path, "--json")
    assert ended.code == 0 and ended.json["results"] == []


def test_a_cut_is_said(run: Run, bundle: Path, tmp_path: Path) -> None:
    (documents := tmp_path / "documents.txt").write_text("heat " * 60 + "\n" + "flow " * 200 + "\n")
    words = ("rerank", bundle, "--query", "wing", "--documents", documents)
    assert {row["index"]: row["truncated"] for row in run(*words, "--json").json["results"]} == {0: False, 1: True}
    assert "1 documents cut, or the query with them: the model takes 96 tokens" in run(*words).out
    documents.write_text("drag heat wing\n")
    table = run(*words).out
    assert "relevance" in table and "drag heat wing" in table and "cut" not in table


@pytest.mark.parametrize(
    ("suffix", "content", "problem"),
    [
        ("txt", b"\x89PNG\xff\xfe", "not UTF-8 text at byte 0, expected documents as text"),
        ("jsonl", b'"wing"\n3\n', "line 2: is 3, expected a string or an object"),
        ("jsonl", b'"wing"\n{"title": "x"}\n', "line 2: `text` is missing"),
        ("jsonl", b'"wing"\n{\n', "line 2: not JSON"),
        ("jsonl", b'"wing"\n{"text": ["x"]}\n', "line 2: text: is ['x'], expected a string"),
    ],
)
def test_files_without_documents(run: Run, bundle: Path, tmp_path: Path, suffix: str, content: bytes, problem: str) -> None:
    path = tmp_path / f"documents.{suffix}"
    path.write_bytes(content)
    assert_one_line(run("rerank", bundle, "--query", "wing", "--documents", path), 2, problem)


def test_requests_that_cannot_be_answered(run: Run, bundle: Path, documents: Path, tmp_path: Path) -> None:
    options = ("--documents", documents)
    assert_one_line(run("rerank", bundle, "--query", "wing " * 200, *options), 2, "the query is too long")
    assert_one_line(run("rerank", bundle, "--query", "wing", "--documents", tmp_path / "none"), 2, "cannot be read: No such file")
    assert_one_line(
        run("rerank", bundle, "--query", "wing", "--instruction", "x", *options), 2, "has no place for an instruction"
    )
    plain = write_bundle(tmp_path / "plain")
    assert_one_line(
        run("rerank", plain, "--query", "wing", *options), 2, "has a catalog of users and items, expected a reranker's"
    )
    drop_catalog(plain)
    assert_one_line(run("rerank", plain, "--query", "wing", *options), 2, "has no tokenizer.json, so it takes token ids")
    add_tokenizer(plain, words_tokenizer().to_str())
    assert_one_line(run("rerank", plain, "--query", "wing", *options), 2, "no text template")


def test_inspect_says_that_a_reranker_takes_texts(run: Run, tmp_path: Path) -> None:
    write_reranker(tmp_path / "bundle")
    assert "No catalog: requests are a query and documents, or token ids." in run("inspect", str(tmp_path / "bundle")).out
