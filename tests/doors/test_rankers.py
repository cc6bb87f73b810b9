"""`rexit.Reranker` and `rexit.Recommender`: what a session answers, as dicts, for all threads."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rexit
from builders.bundles.bundle import write_bundle
from builders.bundles.bundle_files import add_tokenizer, drop_catalog
from builders.bundles.catalog import ITEM_IDS, USER_IDS
from builders.bundles.reranker import ids, words_tokenizer, write_reranker
from rexit import Recommender, Reranker
from rexit.doors.pool import Job, Pool
from rexit.errors import DeadlineError, InputError
from rexit.integrations import stage_scores
from rexit.runtime import Scores, Session

QUERY = "wing drag"
DOCUMENTS = ["heat flow", "wing", "layer layer", "drag heat wing", "flow"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_reranker(tmp_path_factory.mktemp("reranker") / "bundle")


@pytest.fixture(scope="module")
def reranker(bundle: Path) -> Iterator[Reranker]:
    with Reranker(bundle, sessions=2) as reranker:
        yield reranker


@pytest.fixture(scope="module")
def session(bundle: Path) -> Iterator[Session]:
    with rexit.open(bundle) as session:
        yield session


def scored(session: Session, query: str, documents: list[str], scores: Any = None) -> Scores:
    candidates = [ids(f"B : {text} ? </s>") for text in documents]
    return session.score(rexit.Request.tokens(ids(f"<s> A : {query}"), candidates, scores and {"bm25": scores}))


def test_rank_is_the_sessions_order(reranker: Reranker, session: Session) -> None:
    expected = scored(session, QUERY, DOCUMENTS)
    order = np.argsort(-expected.log_odds, kind="stable").tolist()
    hits = reranker.rank(QUERY, DOCUMENTS)
    assert hits == [
        {"corpus_id": n, "score": expected[n].probability, "log_odds": expected[n].log_odds, "exit": expected[n].exit}
        for n in order
    ]
    top = reranker.rank(QUERY, (text for text in DOCUMENTS), top_k=2, return_documents=True)
    assert top == [{**hit, "text": DOCUMENTS[n]} for hit, n in zip(hits, order[:2], strict=False)]
    assert len(reranker.rank(QUERY, DOCUMENTS, 99)) == len(DOCUMENTS)
    assert reranker.rank(QUERY, []) == []


def test_predict_is_in_the_order_of_the_pairs(reranker: Reranker, session: Session) -> None:
    pairs = [(query, text) for text in DOCUMENTS for query in (QUERY, "heat")]
    answer = reranker.predict(pairs)
    assert isinstance(answer, np.ndarray) and answer.dtype == np.float32
    expected = np.stack([scored(session, query, DOCUMENTS).probability for query in (QUERY, "heat")], 1)
    assert answer.tolist() == expected.ravel().tolist()
    single = reranker.predict((QUERY, DOCUMENTS[0]))
    assert isinstance(single, np.float32) and single == answer[0]
    assert reranker.predict(np.array([pairs[0]])).tolist() == [answer[0]]
    assert reranker.predict([]).shape == (0,)


def test_many_queries_keep_their_order(reranker: Reranker) -> None:
    queries = [(f"{QUERY} " * (1 + n % 3), DOCUMENTS[: n % 6]) for n in range(40)]
    read: list[int] = []

    def source() -> Iterator[tuple[str, list[str]]]:
        for n, query in enumerate(queries):
            read.append(n)
            yield query

    ranked = reranker.rank_many(source(), top_k=3)
    assert next(ranked) == [] and len(read) <= 4, "it reads a few ahead, not all"
    assert [[], *ranked] == [reranker.rank(*query, top_k=3) for query in queries]
    for bad, problem in (
        ((QUERY, [None]), r"queries\[1\]: documents\[0\] is None"),
        ("wing", r"queries\[1\] is 'wing', expected a q"),
    ):
        ranked = reranker.rank_many([(QUERY, DOCUMENTS), bad, (QUERY, DOCUMENTS)])  # type: ignore[list-item]
        assert len(next(ranked)) == 5, "those before it are answered"
        with pytest.raises(InputError, match=f"^{problem}"):
            next(ranked)
    with pytest.raises(InputError, match=r"^queries is 5, expected tuples of a query and its documents"):
        next(reranker.rank_many(5))  # type: ignore[arg-type]


def test_the_first_stages_scores(tmp_path: Path) -> None:
    bundle, first_stage = write_reranker(tmp_path / "bundle", zero=True), [5.0, 4, 3, 2, 1]
    with Reranker(bundle) as reranker, rexit.open(bundle) as session:
        expected = scored(session, QUERY, DOCUMENTS, first_stage)
        hits = reranker.rank(QUERY, DOCUMENTS, scores={"bm25": np.array(first_stage)})
        assert {hit["corpus_id"]: hit["score"] for hit in hits} == dict(enumerate(expected.probability.tolist()))
        pairs = [(QUERY, text) for text in DOCUMENTS]
        assert reranker.predict(pairs, scores={"bm25": first_stage}).tolist() == expected.probability.tolist()  # type: ignore[union-attr]
        assert list(reranker.rank_many([(QUERY, DOCUMENTS, {"bm25": first_stage})])) == [hits]
        with pytest.raises(InputError, match=r"^scores is missing"):
            reranker.rank(QUERY, DOCUMENTS)
        with pytest.raises(InputError, match=r"^scores\.bm25 has 2 numbers, expected one for each of the 5 pairs$"):
            reranker.predict(pairs, scores={"bm25": [1, 2]})
        for scores, problem in (
            ([1, 2], r"scores is \[1, 2\], expected numbers of the pairs by name"),
            ({"bm25": 5}, r"scores\.bm25 is 5, expected a number for each pair"),
            ({"bm25": None}, "scores is empty, expected a number for each candidate"),
        ):
            with pytest.raises(InputError, match=f"^{problem}"):
                reranker.predict(pairs, scores=scores)  # type: ignore[arg-type]


def test_first_stages_of_other_libraries() -> None:
    metadata = [{"bm25": 2.0}, {}]
    assert stage_scores([], metadata, [1.0, None]) is None
    assert stage_scores(["bm25"], metadata, [1.0, None]) == {"bm25": [1.0, None]}
    for own in ([], [None, None]):
        assert stage_scores(["bm25"], metadata, own) == {"bm25": [2.0, None]}
        with pytest.raises(InputError, match=r"^no document's metadata has 'bm25'"):
            stage_scores(["bm25"], [{}, {}], own)


@pytest.mark.medium
def test_many_threads_share_one(reranker: Reranker) -> None:
    queries = [(f"{QUERY} " * (1 + n % 5), DOCUMENTS[n % 4 :]) for n in range(320)]
    expected = [reranker.rank(*query) for query in queries]
    begin = threading.Barrier(32)

    def rank(first: int) -> list[Any]:
        begin.wait(30)
        return [reranker.rank(*query) for query in queries[first::32]]

    with ThreadPoolExecutor(32) as threads:
        answers = list(threads.map(rank, range(32)))
    assert [answers[n % 32][n // 32] for n in range(320)] == expected


def test_a_deadline(reranker: Reranker) -> None:
    assert len(reranker.rank(QUERY, DOCUMENTS, deadline_ms=60_000)) == 5
    for call in (
        lambda: reranker.rank(QUERY, DOCUMENTS, deadline_ms=0.001),
        lambda: list(reranker.rank_many([(QUERY, DOCUMENTS)], deadline_ms=0.001)),
        lambda: reranker.predict([(QUERY, "wing")], deadline_ms=0.001),
    ):
        with pytest.raises(DeadlineError, match=r"deadline of 0.001 ms passed"):
            call()


def test_a_deadline_in_the_queue_ends_the_wait(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, reached, opened = Session.score, threading.Event(), threading.Event()

    def score(session: Session, *words: Any, **fields: Any) -> Scores:
        reached.set()
        assert opened.wait(30)
        return real(session, *words, **fields)

    with Reranker(bundle) as reranker, ThreadPoolExecutor(1) as threads:
        monkeypatch.setattr(Session, "score", score)
        first = threads.submit(reranker.rank, QUERY, DOCUMENTS)
        assert reached.wait(30)
        with pytest.raises(DeadlineError, match="passed in the queue"):
            reranker.rank(QUERY, DOCUMENTS, deadline_ms=20)
        opened.set()
        assert len(first.result(30)) == 5


def test_a_cut_document_is_marked(reranker: Reranker) -> None:
    hits = reranker.rank("wing", ["heat " * 60, "flow " * 200])
    assert {hit["corpus_id"]: hit.get("truncated") for hit in hits} == {0: None, 1: True}


def test_thousands_of_documents_are_one_call(reranker: Reranker) -> None:
    hits = reranker.rank(QUERY, [DOCUMENTS[n % 5] for n in range(5000)])
    assert [hit["corpus_id"] % 5 for hit in hits[::1000]] == [hit["corpus_id"] for hit in reranker.rank(QUERY, DOCUMENTS)]


NO_TEXTS = [
    ({"documents": "wing"}, "documents is 'wing', expected a list of strings"),
    ({"documents": None}, "documents is None, expected a list of strings"),
    ({"documents": {"text": "wing"}}, "documents is {'text': 'wing'}, expected a list of strings"),
    ({"documents": ["wing", None]}, "documents[1] is None, expected a string"),
    ({"documents": ["wing", float("nan")]}, "documents[1] is nan, expected a string"),
    ({"documents": ["\ud800"]}, "documents[0] is '\\ud800': UTF-8 cannot hold it"),
    ({"query": None}, "query is None, expected a string"),
    ({"query": ["wing"]}, "query is ['wing'], expected a string"),
    ({"query": "wing " * 200}, "the query is too long"),
    ({"top_k": 0}, "top_k is 0, expected an integer from 1 on"),
    ({"top_k": "3"}, "top_k is '3', expected an integer from 1 on"),
    ({"deadline_ms": -1}, "deadline_ms is -1, expected a number above 0"),
    ({"instruction": "x"}, "has no place for an instruction"),
    ({"scores": [1, 2]}, "scores"),
]


@pytest.mark.parametrize(("fields", "problem"), NO_TEXTS, ids=[problem[:40] for _, problem in NO_TEXTS])
def test_what_is_no_text_is_refused_in_one_line(reranker: Reranker, fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(InputError) as raised:
        reranker.rank(**{"query": QUERY, "documents": ["wing", "heat"], **fields})
    assert problem in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("pairs", "problem"),
    [
        ("wing", "pairs is 'wing', expected a list of pairs"),
        (7, "pairs is 7, expected a list of pairs"),
        (["wing"], "pairs[0] is 'wing', expected a query and a document"),
        ([("wing", "heat"), ("wing",)], "pairs[1] is ('wing',), expected a query and a document"),
        ([("wing", "heat", "flow")], "pairs[0] is ('wing', 'heat', 'flow'), expected a query and a document"),
        ([("wing", None)], "pairs[0]: the document is None, expected a string"),
        ([None], "pairs[0] is None, expected a query and a document"),
    ],
)
def test_pairs_that_are_none(reranker: Reranker, pairs: Any, problem: str) -> None:
    with pytest.raises(InputError) as raised:
        reranker.predict(pairs)
    assert problem in str(raised.value) and "\n" not in str(raised.value)


def test_a_text_with_a_nul_is_a_text(reranker: Reranker) -> None:
    """As for the model's own tokenizer: here an unknown word."""
    assert len({hit["score"] for hit in reranker.rank(QUERY, ["wing\0", "zzz"])}) == 1


def test_bundles_of_the_other_kind(bundle: Path, tmp_path: Path) -> None:
    catalog = write_bundle(tmp_path / "catalog")
    with pytest.raises(InputError, match=r"has a catalog of users and items, expected a reranker's bundle: rexit\.Recommender$"):
        Reranker(catalog)
    with pytest.raises(InputError, match=r"has no catalog of users and items, expected one: rexit\.Reranker reads this bundle$"):
        Recommender(bundle)
    with pytest.raises(InputError, match="sessions is 0, expected an integer from 1 to 64"):
        Reranker(bundle, sessions=0)
    drop_catalog(without := write_bundle(tmp_path / "plain"))
    with pytest.raises(InputError, match=r"has no tokenizer\.json, so it takes token ids"):
        Reranker(without)
    add_tokenizer(without, words_tokenizer().to_str())
    with pytest.raises(InputError, match="no text template"):
        Reranker(without)


def test_a_closed_one_refuses_and_a_forgotten_one_ends_its_threads(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reranker, submit = Reranker(bundle, sessions=2), Pool.submit

    def close_and_submit(pool: Pool, job: Job) -> None:
        reranker.close()  # as another thread may
        submit(pool, job)

    monkeypatch.setattr(Pool, "submit", close_and_submit)
    for _ in range(2):
        with pytest.raises(InputError, match="is closed"):
            reranker.rank(QUERY, DOCUMENTS)
    before = threading.active_count()
    forgotten = Reranker(bundle, sessions=2)
    assert threading.active_count() == before + 2
    del forgotten
    gc.collect()
    assert threading.active_count() == before


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("catalog") / "bundle")


def test_recommend_is_the_sessions_order(catalog: Path) -> None:
    items = list(ITEM_IDS)
    with Recommender(catalog) as recommender, rexit.open(catalog) as session:
        for user, more in ((USER_IDS[0], {}), (10**9, {"recent": [items[0], (items[1], False)]})):
            expected = session.score(user, items, top_k=3, **more)
            hits = recommender.recommend(user, 3, items=np.array(items), **more)
            assert [(hit["item"], hit["log_odds"], hit["exit"]) for hit in hits] == [
                (score.item, score.log_odds, score.exit) for score in expected
            ]
            assert [hit["score"] for hit in hits] == pytest.approx(expected.probability.tolist())
            nearest = session.score(user, retrieve=3, top_k=2, **more)
            retrieved = recommender.recommend(user, 2, retrieve=3, **more)
            assert [(hit["item"], hit["log_odds"]) for hit in retrieved] == [(score.item, score.log_odds) for score in nearest]
            most = recommender.recommend(user, 0, **more)
            assert {hit["item"] for hit in retrieved} < {hit["item"] for hit in most} and len(most) < len(items)
            assert all(hit.get("known") == (None if user == USER_IDS[0] else False) for hit in hits)
        assert len(recommender.recommend(USER_IDS[0], 0, items=items)) == len(items)
        assert recommender.recommend(USER_IDS[0], items=[]) == []
        with pytest.raises(InputError, match="not in the catalog"):
            recommender.recommend(USER_IDS[0], items=[10**9])
        with pytest.raises(InputError, match="items is 5, expected a list of ids"):
            recommender.recommend(USER_IDS[0], items=5)  # type: ignore[arg-type]
        with pytest.raises(InputError, match="top_k is -1, expected an integer from 0 on"):
            recommender.recommend(USER_IDS[0], -1, items=items)
        with pytest.raises(InputError, match="retrieve is 0, expected an integer from 1 on"):
            recommender.recommend(USER_IDS[0], retrieve=0)
        with pytest.raises(DeadlineError):
            recommender.recommend(USER_IDS[0], items=items, deadline_ms=0.001)
