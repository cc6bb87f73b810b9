"""Texts, as the library reads them: limits, deadlines, a tokenizer's tables that change, truncation that it does not know."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from builders.bundles.bundle_files import edit_json
from builders.bundles.catalog import ITEM_IDS, USER_IDS
from builders.bundles.pairs import bert, write_pairs
from rexit import Request, _native, runtime
from rexit.data.texts import TextEncoder
from rexit.errors import BundleError, DeadlineError, InputError
from rexit.format.bundle.manifest import WORD_PIECES, Pair, RerankerPrompt
from rexit.format.request import MAX_CANDIDATES

PAIR = Pair(tokens=24, vocabulary=20)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    return write_pairs(tmp_path / "bundle", bert(["wing", "drag", "##s"]), PAIR)


def test_tables_that_change_while_they_are_open_are_refused(texts: Path) -> None:
    """Also a longest piece, of which the reader has room for 256 bytes."""
    path = texts / WORD_PIECES
    request = Request(query="wing", documents=["drags " * 3])
    with runtime.open(texts) as session:
        session.score(request)
        data = path.read_bytes()
        with path.open("r+b") as file:
            file.seek(len(data) // 2)
            file.write(b"\x7f" * (len(data) - len(data) // 2))
        for call in (session.score, session.trace, session.prompt):
            with pytest.raises(BundleError, match=rf"{WORD_PIECES}: was modified") as refusal:
                call(request)
            assert refusal.value.status == "REXIT_MISMATCH"


def test_a_truncation_that_is_not_known_is_refused(texts: Path) -> None:
    pair = {"tokens": 24, "vocabulary": 20, "truncation": "only_first"}
    edit_json(texts / "manifest.json", reranker={"pair": pair})
    with pytest.raises(BundleError, match="truncation: is `only_first`, expected longest_first or only_second") as refusal:
        runtime.open(texts)
    assert refusal.value.status == "REXIT_UNSUPPORTED"


def test_a_deadline_counts_while_texts_are_read(texts: Path) -> None:
    """Of one long text and of many; the answer would take ten times the wait."""
    with runtime.open(texts) as session:
        for documents in (["drags " * 4_000_000], ["drags wing " * 200] * 9_000):
            begin = time.monotonic()
            with pytest.raises(DeadlineError, match="the deadline passed during"):
                session.score_json(Request(query="wing", documents=documents).to_json(), deadline_us=1_000)
            passed = time.monotonic() - begin
            begin = time.monotonic()
            session.score_json(Request(query="wing", documents=documents).to_json())
            assert passed < (time.monotonic() - begin) / 2


def test_a_request_has_so_many_candidates_at_most(texts: Path, folder: Path) -> None:
    many = MAX_CANDIDATES + 1
    with runtime.open(texts) as by_text, runtime.open(folder) as by_id:
        assert by_text.info.max_candidates == by_id.info.max_candidates == MAX_CANDIDATES
        for session, request, field in (
            (by_text, Request(query="wing", documents=[""] * many), "documents"),
            (by_text, Request.tokens([], [[1]] * many), "candidates"),
            (by_id, Request(USER_IDS[0], [ITEM_IDS[0]] * many), "items"),
        ):
            with pytest.raises(InputError, match=f"{field} has more than {MAX_CANDIDATES} candidates"):
                session.score(request)
        with pytest.raises(InputError, match=f"retrieve is {many}, expected an integer from 1 to {MAX_CANDIDATES}"):
            by_id.score(USER_IDS[0], retrieve=many)


def test_no_documents_are_no_candidates(texts: Path) -> None:
    tokenizer = bert(["wing", "drag", "##s"])
    prompt = RerankerPrompt(pair=PAIR)
    made = TextEncoder(tokenizer, prompt, 24, None, (texts / WORD_PIECES).read_bytes())
    assert made.prompt("wing", []) == ([], [])


@pytest.mark.parametrize(
    ("centres", "offsets", "rows"),
    [
        ((2, 4), [0, 1, 4], [0, 1, 2]),
        ((2, 4), [0, 3, 1, 3], [0, 1, 2]),
        ((2, 4), [0, 2, 3], [0, 1, 3]),
        ((2, 4), [0, 2, 3], [0, 1, -1]),
        ((2, 3), [0, 2, 3], [0, 1, 2]),
        ((2, 4), [0, 3], [0, 1, 2]),
    ],
)
def test_lists_that_do_not_fit_the_embeddings(centres: tuple[int, int], offsets: list[int], rows: list[int]) -> None:
    table = np.zeros((3, 4), np.uint16)

    def made(shape: tuple[int, int], ends: list[int], order: list[int]) -> _native.Embeddings:
        return _native.Embeddings(
            table, table, table, (1, np.zeros(shape, np.uint16), np.array(ends, np.int64), np.array(order, np.int32))
        )

    made((2, 4), [0, 2, 3], [2, 0, 1])
    with pytest.raises(ValueError, match="lists: expected a centre"):
        made(centres, offsets, rows)
