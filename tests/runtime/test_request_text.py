"""A request's texts: which prompt they give, through every door of the runtime, and what is refused."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from builders.bundles.bundle import BundleOptions, write_bundle
from builders.bundles.bundle_files import add_tokenizer
from builders.bundles.catalog import ITEM_IDS, USER_IDS, make_catalog, with_request
from builders.bundles.reranker import ids, words_tokenizer
from rexit import runtime
from rexit.batch import BatchOptions, ColumnNames, score_files
from rexit.batch.engine import Local, Opening
from rexit.bundle import Bundle, Catalog
from rexit.errors import InputError
from rexit.exporter.prompt.builder import PromptBuilder
from rexit.serve import Pool
from running.program import assert_one_error, run_program
from running.service import serving

ITEMS = [int(item) for item in ITEM_IDS[:6]]
USER = USER_IDS[0]
TEXTS = [
    {"query": "wing drag"},
    {"query": " heat  flow layer ", "note": "B : wing ?"},
    {"query": "heat flow layer wing drag ?", "note": ""},
    {"query": "drag </s>"},
]
"""The last spells out a special token, which stays ordinary text: unknown words."""


def tokens_of(texts: dict[str, str]) -> dict[str, list[int]]:
    return {name: ids(text.replace("</s>", "<unk>")) for name, text in texts.items()}


def write(folder: Path, tokenizer: bool = True) -> Path:
    bundle = write_bundle(folder, BundleOptions(with_request(make_catalog())))
    if tokenizer:
        add_tokenizer(bundle, words_tokenizer().to_str())
    return bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("request") / "bundle")


@pytest.mark.parametrize("texts", TEXTS)
def test_python_and_cpp_assemble_the_same_prompt(bundle: Path, texts: dict[str, str]) -> None:
    expected = PromptBuilder(Catalog.open(bundle / "catalog")).prompt(USER, ITEMS, request=tokens_of(texts))
    with runtime.open(bundle) as session:
        for request in (texts, tokens_of(texts)):
            prefix, candidates = session.prompt(USER, ITEMS, request=request)
            np.testing.assert_array_equal(prefix, expected.prefix)
            for tokens, other in zip(candidates, expected.candidates, strict=True):
                np.testing.assert_array_equal(tokens, other)
    query = tokens_of(texts)["query"]
    assert prefix[-len(query) :].tolist() == query, "the text as it is, at its place"


def test_a_missing_text_reads_as_the_templates_word(bundle: Path) -> None:
    with runtime.open(bundle) as session:
        prompts = [
            session.prompt(USER, ITEMS[:1], request={"query": [4], **note})[1][0].tolist()
            for note in ({}, {"note": ""}, {"note": "  "}, {"note": []}, {"note": [4, 5]})
        ]
    assert prompts[0] == prompts[1] == prompts[2] == prompts[3] != prompts[4]


REFUSED = [
    ({}, "request text 'query' is missing, expected at most 6 tokens"),
    ({"query": []}, "request text 'query' is missing, expected at most 6 tokens"),
    ({"query": [3] * 7}, "request text 'query' has 7 tokens, expected at most 6"),
    ({"query": [4], "page": [4]}, "request text 'page': the prompt places no such text, it has: query, note"),
]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        *REFUSED,
        ({"query": "wing " * 7}, "request text 'query' has 7 tokens, expected at most 6"),
        ({"query": " "}, "request text 'query' is missing, expected at most 6 tokens"),
        ({"query": "wing", "page": "home"}, "request text 'page': the prompt places no such text, it has: query, note"),
        ({"query": [4, 1 << 20]}, "request text 'query'[1] is 1048576, expected a token id from 0 to 63"),
        ({"query": [4, -1]}, "request text 'query'[1] is -1, expected a token id"),
        ({"query": [4, 0.5]}, "request text 'query'[1] is 0.5, expected an integer"),
        ({"query": None}, "request text 'query' is None, expected a sequence of token ids"),
        ({"query": b"wing"}, "request text 'query' is a string, expected a sequence of token ids"),
        ({"query": "\ud800"}, "request text 'query' is '\\ud800': UTF-8 cannot hold it"),
        ({7: [4]}, "a name in request is 7, expected a string"),
        ("wing", "request is 'wing', expected a mapping from names to texts or token ids"),
    ],
)
def test_what_is_refused(bundle: Path, request_: Any, message: str) -> None:
    with runtime.open(bundle) as session, pytest.raises(InputError) as raised:
        session.score(USER, ITEMS, request=request_)
    assert str(raised.value) == message


@pytest.mark.parametrize(("request_", "message"), REFUSED)
def test_python_refuses_in_the_same_words(bundle: Path, request_: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as reference:
        PromptBuilder(Catalog.open(bundle / "catalog")).prompt(USER, ITEMS, request=request_)
    assert str(reference.value) == message


def test_a_name_given_twice(bundle: Path) -> None:
    """Python's mapping cannot; C and the command line can."""
    with runtime.open(bundle) as session, pytest.raises(InputError) as raised:
        session._open.prompt(USER, ITEMS, [], [], None, [], [("query", [4]), ("note", []), ("query", [])])
    assert str(raised.value) == "request text 'query' appears twice in the request"


def test_a_text_needs_a_tokenizer(tmp_path: Path) -> None:
    with runtime.open(write(tmp_path / "bundle", tokenizer=False)) as session:
        session.score(USER, ITEMS, request={"query": [4]})
        with pytest.raises(InputError) as raised:
            session.score(USER, ITEMS, request={"query": "wing"})
    assert str(raised.value) == (
        "request text 'query' is a text, and the bundle has no tokenizer.json: pass token ids, or `rexit export --with-tokenizer`"
    )


def test_a_prompt_without_request_texts_refuses_any(tmp_path: Path) -> None:
    message = "request text 'query': the prompt places no such text, it has none"
    with runtime.open(write_bundle(tmp_path / "bundle")) as session:
        for value in ("wing", [4]):
            with pytest.raises(InputError, match=message):
                session.score(USER, ITEMS, request={"query": value})


@pytest.mark.parametrize("texts", TEXTS)
def test_every_door_gives_the_same_scores_to_the_bit(bundle: Path, tmp_path: Path, texts: dict[str, str]) -> None:
    tokens = tokens_of(texts)
    with runtime.open(bundle) as session:
        expected = session.score(USER, ITEMS, request=tokens).log_odds.tolist()
        session.clear_cache()
        assert session.score(USER, ITEMS, request=texts).log_odds.tolist() == expected
        session.clear_cache()
        assert session.score(USER, ITEMS, request={"query": [11]}).log_odds.tolist() != expected, "the text matters"

    words = [f"--request={name}={','.join(map(str, ids))}" for name, ids in tokens.items()]
    slate = [f"--user={USER}", f"--items={','.join(map(str, ITEMS))}"]
    assert _log_odds(json.loads(run_program("score", bundle, "--json", *slate, *words).out)) == expected
    line = json.dumps({"user": USER, "items": ITEMS, "request": tokens})
    assert _log_odds(json.loads(run_program("pipe", bundle, stdin=line).out)) == expected

    with serving(Pool(partial(runtime.open, bundle), 1, 4)) as service:
        for request in (texts, tokens):
            reply = service.score(user=USER, items=ITEMS, request=request)
            assert reply.status == 200 and _log_odds(reply.json) == expected

    for n, request in enumerate((texts, tokens)):
        columns = {name: [value] * len(ITEMS) for name, value in request.items()}
        pairs, out = tmp_path / f"pairs-{n}.parquet", tmp_path / f"scores-{n}.parquet"
        pl.DataFrame({"user_id": [USER] * len(ITEMS), "item_id": ITEMS, **columns}).write_parquet(pairs)
        score_files(Opening(Bundle.open(bundle), 0), BatchOptions(pairs, out, ColumnNames(), None), Local())
        assert pl.read_parquet(out)["log_odds"].to_list() == expected


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"query": None}, "request.query: got None, expected a text or token ids"),
        ({"query": [4, "wing"]}, "request.query: got [4, 'wing'], expected a text or token ids"),
        (["query"], "request: got ['query'], expected: a valid dictionary"),
        ({"query": "wing " * 7}, "request text 'query' has 7 tokens, expected at most 6"),
        *REFUSED,
    ],
)
def test_http_refuses_in_one_line(bundle: Path, request_: Any, message: str) -> None:
    with serving(Pool(partial(runtime.open, bundle), 1, 4)) as service:
        reply = service.score(user=USER, items=ITEMS, request=request_)
    assert (reply.status, reply.json) == (422, {"error": message})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--request", "query"], "request 'query', expected NAME=TOKENS, as in query=17,4,9"),
        (["--request", "=4"], "request '=4', expected NAME=TOKENS, as in query=17,4,9"),
        (["--request", "query=wing drag"], "request 'query=wing drag', expected NAME=TOKENS, as in query=17,4,9"),
        (["--request", "query=99999999999"], "request 'query=99999999999', expected NAME=TOKENS"),
        (["--request", "query=4", "--request", "query=5"], "request text 'query' appears twice in the request"),
        (["--request", "query=4,64"], "request text 'query'[1] is 64, expected a token id from 0 to 63"),
        ([], "request text 'query' is missing, expected at most 6 tokens"),
    ],
)
def test_the_program_refuses_in_one_line(bundle: Path, words: list[str], message: str) -> None:
    assert_one_error(run_program("score", bundle, f"--user={USER}", f"--items={ITEMS[0]}", *words), 2, message)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (
            '{"query": "wing"}',
            "line 1: request 'query' is a text, expected an array of token ids: this program has no tokenizer",
        ),
        ('{"query": null}', "line 1: request 'query' is null, expected an array of token ids"),
        ('{"query": [4, 0.5]}', "line 1: request 'query' has 0.5, expected token ids"),
        ('{"query": [4, 18446744073709551615]}', "line 1: request 'query' has 18446744073709551615, expected token ids"),
        ('["query"]', "line 1: request is array, expected an object"),
        ('{"query": [3, 3, 3, 3, 3, 3, 3]}', "request text 'query' has 7 tokens, expected at most 6"),
    ],
)
def test_the_pipe_answers_in_one_line(bundle: Path, request_: str, message: str) -> None:
    line = f'{{"user": {USER}, "items": [{ITEMS[0]}], "request": {request_}}}'
    answer = json.loads(run_program("pipe", bundle, stdin=line).out)
    assert answer["error"] == {"status": "REXIT_INVALID_ARGUMENT", "message": message}


def _log_odds(answer: dict[str, Any]) -> list[float]:
    return [float(np.float32(score["log_odds"])) for score in answer["scores"]]


def test_a_prefix_is_shared_up_to_its_text(bundle: Path) -> None:
    """Another query: only what stands from its first other token on is computed again. Another note, in the candidates' part:
    nothing."""
    with runtime.open(bundle) as session:
        whole = session.score(USER, ITEMS, request={"query": [4, 5, 6]}).stats
        other_note = session.score(USER, ITEMS, request={"query": [4, 5, 6], "note": [7, 8]}).stats
        other_query = session.score(USER, ITEMS, request={"query": [4, 7], "note": [7, 8]}).stats
    assert whole.prefix_tokens_reused == 0
    assert other_note.prefix_tokens_reused == other_note.prefix_tokens == whole.prefix_tokens
    assert other_note.candidate_tokens == whole.candidate_tokens + 2 * len(ITEMS) * (2 - 1), "twice, for the word of one token"
    assert other_query.prefix_tokens == whole.prefix_tokens - 1
    assert other_query.prefix_tokens_reused == whole.prefix_tokens - 2
