"""A request's context and texts: which prompt they give, through every door of the runtime, and what is refused."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from builders.bundles.bundle import BundleOptions, write_bundle
from builders.bundles.bundle_files import add_tokenizer
from builders.bundles.catalog import ITEM_IDS, USER_IDS, make_catalog, with_context, with_request
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
SLATE = (f"--user={USER}", f"--items={','.join(map(str, ITEMS))}")
INPUTS: list[tuple[dict[str, Any], dict[str, str]]] = [
    ({"device": "tv", "hour": 21}, {"query": "wing drag"}),
    ({"device": "phone", "hour": 6}, {"query": " heat  flow layer ", "note": "B : wing ?"}),
    ({"device": 7, "hour": 18.25}, {"query": "heat flow layer wing drag ?", "note": ""}),
    ({"device": "7", "hour": "18.5"}, {"query": "drag </s>"}),
    ({"device": "tv"}, {"query": "wing"}),
    ({"device": "tv", "hour": 24}, {"query": "wing"}),
]
"""Contexts and texts. One text spells out a special token, which stays ordinary text: unknown words."""
TV, WING = {"device": "tv"}, {"query": [4]}


def tokens_of(texts: dict[str, str]) -> dict[str, list[int]]:
    return {name: ids(text.replace("</s>", "<unk>")) for name, text in texts.items()}


def write(folder: Path, tokenizer: bool = True) -> Path:
    bundle = write_bundle(folder, BundleOptions(with_request(with_context(make_catalog()))))
    if tokenizer:
        add_tokenizer(bundle, words_tokenizer().to_str())
    return bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("request") / "bundle")


@pytest.mark.parametrize(("context", "texts"), INPUTS)
def test_python_and_cpp_assemble_the_same_prompt(bundle: Path, context: dict[str, Any], texts: dict[str, str]) -> None:
    builder = PromptBuilder(Catalog.open(bundle / "catalog"))
    expected = builder.prompt(USER, ITEMS, context=context, request=tokens_of(texts))
    with runtime.open(bundle) as session:
        for request in (texts, tokens_of(texts)):
            prefix, candidates = session.prompt(USER, ITEMS, context=context, request=request)
            np.testing.assert_array_equal(prefix, expected.prefix)
            for tokens, other in zip(candidates, expected.candidates, strict=True):
                np.testing.assert_array_equal(tokens, other)
    query = tokens_of(texts)["query"]
    assert prefix[-len(query) :].tolist() == query, "the text as it is, at its place"


def test_each_value_has_its_own_tokens(bundle: Path) -> None:
    with runtime.open(bundle) as session:

        def prompt(context: dict[str, Any], **texts: Any) -> tuple[list[int], list[int]]:
            prefix, candidates = session.prompt(USER, ITEMS[:1], context=context, request={**WING, **texts})
            return prefix.tolist(), candidates[0].tolist()

        prefixes = [prompt({"device": device})[0] for device in ("tv", "phone", "7")]
        hours = [prompt({"device": "tv", "hour": hour})[1] for hour in (5.9, 6, 25, -1)]
        left_out = prompt(TV)[1]
        notes = [prompt(TV, note=note)[1] for note in ("", "  ", [], [4, 5])]
    assert len(set(map(tuple, prefixes))) == 3
    assert hours[0] != hours[1] and hours[2] == hours[3] == left_out, "outside its bins: words.missing"
    assert notes[0] == notes[1] == notes[2] == left_out != notes[3], "the template's word"


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"context": {"device": "radio"}}, "context 'device' is 'radio', expected one of tv, phone, 7"),
    ({"context": {"device": 8}}, "context 'device' is 8, expected one of tv, phone, 7"),
    ({"context": {}}, "context 'device' is missing, expected one of tv, phone, 7"),
    ({"context": {**TV, "page": "home"}}, "context 'page': the prompt places no such context, it has: device, hour"),
    ({"request": {}}, "request text 'query' is missing, expected at most 6 tokens"),
    ({"request": {"query": []}}, "request text 'query' is missing, expected at most 6 tokens"),
    ({"request": {"query": [3] * 7}}, "request text 'query' has 7 tokens, expected at most 6"),
    ({"request": {"query": [4], "page": [4]}}, "request text 'page': the prompt places no such text, it has: query, note"),
]
"""By every door in the same words."""


@pytest.mark.parametrize(
    ("given", "message"),
    [
        *REFUSED,
        ({"context": {"device": 7.5}}, "context 'device' is 7.5, expected one of tv, phone, 7"),
        ({"context": {"device": None}}, "context 'device' is None, expected a string or a number"),
        ({"context": {"device": True}}, "context 'device' is True, expected a string or a number"),
        ({"context": {7: "tv"}}, "a name in context is 7, expected a string"),
        ({"context": {"device": "t\0v"}}, r"context 'device' is 't\x00v': it must not hold a NUL character"),
        ({"context": "tv"}, "context is 'tv', expected a mapping from names to values"),
        ({"request": {"query": "wing " * 7}}, "request text 'query' has 7 tokens, expected at most 6"),
        ({"request": {"query": " "}}, "request text 'query' is missing, expected at most 6 tokens"),
        ({"request": {"query": "wing", "page": "home"}}, REFUSED[-1][1]),
        ({"request": {"query": [4, 1 << 20]}}, "request text 'query'[1] is 1048576, expected a token id from 0 to 63"),
        ({"request": {"query": [4, -1]}}, "request text 'query'[1] is -1, expected a token id"),
        ({"request": {"query": [4, 0.5]}}, "request text 'query'[1] is 0.5, expected an integer"),
        ({"request": {"query": None}}, "request text 'query' is None, expected a sequence of token ids"),
        ({"request": {"query": b"wing"}}, "request text 'query' is a string, expected a sequence of token ids"),
        ({"request": {"query": "\ud800"}}, "request text 'query' is '\\ud800': UTF-8 cannot hold it"),
        ({"request": {7: [4]}}, "a name in request is 7, expected a string"),
        ({"request": "wing"}, "request is 'wing', expected a mapping from names to texts or token ids"),
    ],
)
def test_what_is_refused(bundle: Path, given: dict[str, Any], message: str) -> None:
    with runtime.open(bundle) as session, pytest.raises(InputError) as raised:
        session.score(USER, ITEMS, **{"context": TV, "request": WING, **given})
    assert str(raised.value) == message


@pytest.mark.parametrize(("given", "message"), REFUSED)
def test_python_refuses_in_the_same_words(bundle: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as reference:
        PromptBuilder(Catalog.open(bundle / "catalog")).prompt(USER, ITEMS, **{"context": TV, "request": WING, **given})
    assert str(reference.value) == message


@pytest.mark.parametrize(
    ("contexts", "texts", "message"),
    [
        ([("device", "tv"), ("hour", 1.0), ("device", "tv")], [("query", [4])], "context 'device'"),
        ([("device", "tv")], [("query", [4]), ("note", []), ("query", [])], "request text 'query'"),
    ],
)
def test_a_name_given_twice(bundle: Path, contexts: list[Any], texts: list[Any], message: str) -> None:
    """Python's mapping cannot; C and the command line can."""
    with runtime.open(bundle) as session, pytest.raises(InputError) as raised:
        session._open.prompt(USER, ITEMS, [], [], None, contexts, texts)
    assert str(raised.value) == f"{message} appears twice in the request"


def test_a_text_needs_a_tokenizer(tmp_path: Path) -> None:
    with runtime.open(write(tmp_path / "bundle", tokenizer=False)) as session:
        session.score(USER, ITEMS, context=TV, request=WING)
        with pytest.raises(InputError) as raised:
            session.score(USER, ITEMS, context=TV, request={"query": "wing"})
    assert str(raised.value) == (
        "request text 'query' is a text, and the bundle has no tokenizer.json: pass token ids, or `rexit export --with-tokenizer`"
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"context": TV}, "context 'device': the prompt places no such context, it has none"),
        ({"request": {"query": "wing"}}, "request text 'query': the prompt places no such text, it has none"),
        ({"request": WING}, "request text 'query': the prompt places no such text, it has none"),
    ],
)
def test_a_prompt_without_them_refuses_any(tmp_path: Path, given: dict[str, Any], message: str) -> None:
    with runtime.open(write_bundle(tmp_path / "bundle")) as session, pytest.raises(InputError, match=message):
        session.score(USER, ITEMS, **given)


@pytest.mark.parametrize(("context", "texts"), INPUTS)
def test_every_door_gives_the_same_scores_to_the_bit(
    bundle: Path, tmp_path: Path, context: dict[str, Any], texts: dict[str, str]
) -> None:
    tokens = tokens_of(texts)
    with runtime.open(bundle) as session:
        expected = session.score(USER, ITEMS, context=context, request=tokens).log_odds.tolist()
        for other in ({"context": {"device": "phone", "hour": 1}}, {"request": {"query": [11]}}):
            session.clear_cache()
            elsewhere = session.score(USER, ITEMS, **{"context": context, "request": tokens, **other})
            assert elsewhere.log_odds.tolist() != expected, "both matter"
        session.clear_cache()
        assert session.score(USER, ITEMS, context=context, request=texts).log_odds.tolist() == expected

    words = [f"--context={name}={value}" for name, value in context.items()]
    words += [f"--request={name}={','.join(map(str, numbers))}" for name, numbers in tokens.items()]
    assert _log_odds(json.loads(run_program("score", bundle, "--json", *SLATE, *words).out)) == expected
    line = json.dumps({"user": USER, "items": ITEMS, "context": context, "request": tokens})
    assert _log_odds(json.loads(run_program("pipe", bundle, stdin=line).out)) == expected

    with serving(Pool(partial(runtime.open, bundle), 1, 4)) as service:
        for request in (texts, tokens):
            reply = service.score(user=USER, items=ITEMS, context=context, request=request)
            assert reply.status == 200 and _log_odds(reply.json) == expected

    for n, request in enumerate((texts, tokens)):
        columns = {name: pl.Series([value] * len(ITEMS)) for name, value in {**context, **request}.items()}
        pairs, out = tmp_path / f"pairs-{n}.parquet", tmp_path / f"scores-{n}.parquet"
        pl.DataFrame({"user_id": [USER] * len(ITEMS), "item_id": ITEMS, **columns}).write_parquet(pairs)
        score_files(Opening(Bundle.open(bundle), 0), BatchOptions(pairs, out, ColumnNames(), None), Local())
        assert pl.read_parquet(out)["log_odds"].to_list() == expected


def test_serve_reads_the_tokenizer_when_it_opens_the_bundle(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    reads, read = [], runtime.Session._request_encoder
    monkeypatch.setattr(runtime.Session, "_request_encoder", lambda session: reads.append(read(session)) or reads[-1])
    with serving(Pool(partial(runtime.open, folder), 2, 4)) as service:
        assert len(reads) == 2 and reads[0] is reads[1], "sessions share it"
        (folder / "tokenizer.json").unlink()
        assert service.score(user=USER, items=ITEMS, context=TV, request={"query": "wing"}).status == 200


def _log_odds(answer: dict[str, Any]) -> list[float]:
    return [float(np.float32(score["log_odds"])) for score in answer["scores"]]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        *REFUSED,
        ({"context": {"device": None}}, "context.device: got None, expected a string or a number"),
        ({"context": {"device": [1]}}, "context.device: got [1], expected a string or a number"),
        ({"context": ["device"]}, "context: got ['device'], expected: a valid dictionary"),
        ({"request": {"query": None}}, "request.query: got None, expected a text or token ids"),
        ({"request": {"query": [4, "wing"]}}, "request.query: got [4, 'wing'], expected a text or token ids"),
        ({"request": ["query"]}, "request: got ['query'], expected: a valid dictionary"),
        ({"request": {"query": "wing " * 7}}, "request text 'query' has 7 tokens, expected at most 6"),
    ],
)
def test_http_refuses_in_one_line(bundle: Path, given: dict[str, Any], message: str) -> None:
    with serving(Pool(partial(runtime.open, bundle), 1, 4)) as service:
        reply = service.score(user=USER, items=ITEMS, **{"context": TV, "request": WING, **given})
    assert (reply.status, reply.json) == (422, {"error": message})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--context=device"], "context 'device', expected NAME=VALUE, as in device=tv"),
        (["--context==tv"], "context '=tv', expected NAME=VALUE, as in device=tv"),
        (["--request=query=4", "--context=device=tv", "--context=device=tv"], "context 'device' appears twice in the request"),
        (["--request=query=4", "--context=device=radio"], "context 'device' is 'radio', expected one of tv, phone, 7"),
        (["--request=query=4"], "context 'device' is missing, expected one of tv, phone, 7"),
        (["--request=query"], "request 'query', expected NAME=TOKENS, as in query=17,4,9"),
        (["--request==4"], "request '=4', expected NAME=TOKENS, as in query=17,4,9"),
        (["--request=query=wing drag"], "request 'query=wing drag', expected NAME=TOKENS, as in query=17,4,9"),
        (["--request=query=99999999999"], "request 'query=99999999999', expected NAME=TOKENS"),
        (["--context=device=tv", "--request=query=4", "--request=query=5"], "request text 'query' appears twice in the request"),
        (["--context=device=tv", "--request=query=4,64"], "request text 'query'[1] is 64, expected a token id from 0 to 63"),
        (["--context=device=tv"], "request text 'query' is missing, expected at most 6 tokens"),
    ],
)
def test_the_program_refuses_in_one_line(bundle: Path, words: list[str], message: str) -> None:
    assert_one_error(run_program("score", bundle, *SLATE, *words), 2, message)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("context", '{"device": null}', "line 1: context 'device' is null, expected a string or a number"),
        ("context", '["device"]', "line 1: context is array, expected an object"),
        ("context", '{"device": "radio"}', "context 'device' is 'radio', expected one of tv, phone, 7"),
        (
            "request",
            '{"query": "wing"}',
            "line 1: request 'query' is a text, expected an array of token ids: this program has no tokenizer",
        ),
        ("request", '{"query": null}', "line 1: request 'query' is null, expected an array of token ids"),
        ("request", '{"query": [4, 0.5]}', "line 1: request 'query' has 0.5, expected token ids"),
        (
            "request",
            '{"query": [4, 18446744073709551615]}',
            "line 1: request 'query' has 18446744073709551615, expected token ids",
        ),
        ("request", '["query"]', "line 1: request is array, expected an object"),
        ("request", '{"query": [3, 3, 3, 3, 3, 3, 3]}', "request text 'query' has 7 tokens, expected at most 6"),
    ],
)
def test_the_pipe_answers_in_one_line(bundle: Path, field: str, value: str, message: str) -> None:
    fields = {"context": json.dumps(TV), "request": json.dumps(WING), field: value}
    line = f'{{"user": {USER}, "items": [{ITEMS[0]}], "context": {fields["context"]}, "request": {fields["request"]}}}'
    answer = json.loads(run_program("pipe", bundle, stdin=line).out)
    assert answer["error"] == {"status": "REXIT_INVALID_ARGUMENT", "message": message}


def test_a_prefix_is_shared_up_to_what_changes(bundle: Path) -> None:
    """Another device or query: only what stands from its first other token on is computed again. Another hour or note, in the
    candidates' part: nothing."""
    requests: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"device": "tv", "hour": 1}, {"query": [4, 5, 6]}),
        ({"device": "tv", "hour": 13}, {"query": [4, 5, 6], "note": [7, 8]}),
        ({"device": "tv", "hour": 13}, {"query": [4, 7], "note": [7, 8]}),
        ({"device": "phone", "hour": 13}, {"query": [4, 7], "note": [7, 8]}),
    ]
    with runtime.open(bundle) as session:
        whole, candidate, query, device = (session.score(USER, ITEMS, context=c, request=r).stats for c, r in requests)
        tv, phone = (session.prompt(USER, ITEMS, context=c, request=r)[0] for c, r in requests[2:])
    shared = next(n for n, (a, b) in enumerate(zip(tv, phone, strict=False)) if a != b)
    assert whole.prefix_tokens_reused == 0
    assert candidate.prefix_tokens_reused == candidate.prefix_tokens == whole.prefix_tokens
    assert query.prefix_tokens == whole.prefix_tokens - 1 and query.prefix_tokens_reused == whole.prefix_tokens - 2
    assert device.prefix_tokens_reused == shared < query.prefix_tokens_reused
    computed = [stats.segments[0].prefix_tokens for stats in (whole, candidate, query, device)]
    assert computed == [whole.prefix_tokens, 0, 1, device.prefix_tokens - shared]
