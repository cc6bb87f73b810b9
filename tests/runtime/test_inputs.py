"""A request's inputs: which prompt they give, by every door of the runtime. What is refused: tests/refusals."""

from __future__ import annotations

import json
import shutil
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest

from builders.bundles.bundle import BundleOptions, write_bundle
from builders.bundles.bundle_files import add_tokenizer
from builders.bundles.catalog import ITEM_IDS, USER_IDS, make_catalog, with_inputs
from builders.bundles.reranker import ids, words_tokenizer
from rexit import runtime
from rexit.data import texts
from rexit.doors.batch import score_table
from rexit.doors.pool import Pool
from rexit.errors import DeadlineError, InputError
from rexit.exporter.prompt.builder import PromptBuilder
from rexit.format.bundle import Catalog
from rexit.format.request import Request
from running.program import run_program
from running.service import serving

ITEMS = [int(item) for item in ITEM_IDS[:6]]
USER = USER_IDS[0]
INPUTS: list[dict[str, Any]] = [
    {"device": "tv", "hour": 21, "query": "wing drag"},
    {"device": "phone", "hour": 6, "query": " heat  flow layer ", "note": "B : wing ?"},
    {"device": 7, "hour": 18.25, "query": "heat flow layer wing drag ?", "note": ""},
    {"device": 7.0, "hour": "18.5", "query": "drag </s>"},
    {"device": "tv", "hour": None, "query": "wing"},
    {"device": "tv", "hour": 24, "query": "wing"},
]
"""One text spells out a special token, which stays ordinary text: unknown words."""
REQUIRED: dict[str, Any] = {"device": "tv", "query": [4]}
TEXTS = ("query", "note")


def with_tokens(inputs: dict[str, Any]) -> dict[str, Any]:
    """The same with token ids for texts."""
    return {name: ids(value.replace("</s>", "<unk>")) if name in TEXTS else value for name, value in inputs.items()}


def write(folder: Path, tokenizer: bool = True) -> Path:
    bundle = write_bundle(folder, BundleOptions(with_inputs(make_catalog())))
    if tokenizer:
        add_tokenizer(bundle, words_tokenizer().to_str())
    return bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("inputs") / "bundle")


@pytest.mark.parametrize("inputs", INPUTS)
def test_python_and_cpp_assemble_the_same_prompt(bundle: Path, inputs: dict[str, Any]) -> None:
    tokens = with_tokens(inputs)
    expected = PromptBuilder(Catalog.open(bundle / "catalog")).prompt(USER, ITEMS, inputs=tokens)
    with runtime.open(bundle) as session:
        for values in (inputs, tokens):
            prefix, candidates = session.prompt(USER, ITEMS, inputs=values)
            np.testing.assert_array_equal(prefix, expected.prefix)
            for candidate, other in zip(candidates, expected.candidates, strict=True):
                np.testing.assert_array_equal(candidate, other)
    query = tokens["query"]
    assert prefix[-len(query) :].tolist() == query, "the text as it is, at its place"


def test_a_trace_of_json_is_that_of_the_request(bundle: Path) -> None:
    """With a null, which is no value."""
    body = json.dumps({"user": USER, "items": ITEMS, "inputs": INPUTS[4]}).encode()
    with runtime.open(bundle) as session:
        np.testing.assert_array_equal(session.trace_json(body), session.trace(USER, ITEMS, inputs=INPUTS[4]))
    assert msgspec.json.decode(body, type=Request).inputs == INPUTS[4]


def test_each_value_has_its_own_tokens(bundle: Path) -> None:
    with runtime.open(bundle) as session:

        def prompt(**inputs: Any) -> tuple[list[int], list[int]]:
            prefix, candidates = session.prompt(USER, ITEMS[:1], inputs={**REQUIRED, **inputs})
            return prefix.tolist(), candidates[0].tolist()

        prefixes = [prompt(device=device)[0] for device in ("tv", "phone", "7")]
        hours = [prompt(hour=hour)[1] for hour in (5.9, 6, 25, -1)]
        left_out = prompt()[1]
        for seven in (7.0, np.array(7), np.array(7.0), np.array("7"), np.float16(7), Fraction(7)):
            assert prompt(device=seven)[0] == prefixes[2], f"{seven!r} is 7"
        for hour in (np.array(6), np.array("6"), Fraction(6)):
            assert prompt(hour=hour)[1] == hours[1]
        assert prompt(hour=np.array(None))[1] == left_out
        notes = [prompt(note=note)[1] for note in ("", "  ", [], np.array([], np.int32), [4, 5])]
    assert len(set(map(tuple, prefixes))) == 3
    assert hours[0] != hours[1] and hours[2] == hours[3] == left_out, "outside its bins: missing"
    assert all(note == left_out for note in notes[:-1]) and notes[-1] != left_out


def test_a_text_needs_a_tokenizer(tmp_path: Path) -> None:
    message = "inputs.query is a text, and the bundle has no tokenizer.json: pass token ids, or `rexit export --with-tokenizer`"
    inputs = {"device": "tv", "query": "wing"}
    with runtime.open(write(tmp_path / "bundle", tokenizer=False)) as session:
        session.score(USER, ITEMS, inputs=REQUIRED)
        with pytest.raises(InputError) as by_fields:
            session.score(USER, ITEMS, inputs=inputs)
        with pytest.raises(InputError) as by_json:
            session.score_json(json.dumps({"user": USER, "items": ITEMS, "inputs": inputs}))
    assert str(by_fields.value) == str(by_json.value) == message


@pytest.mark.parametrize("repeated", ["user", "inputs", "query"])
def test_a_key_twice_beside_a_text(bundle: Path, repeated: str) -> None:
    inputs = f'{{"device": "tv", "query": "wing", "{repeated}": "wing"}}'
    body = f'{{"user": {USER}, "items": {ITEMS}, "{repeated}": {inputs}, "inputs": {inputs}}}'
    with runtime.open(bundle) as session, pytest.raises(InputError, match=f"'{repeated}' appears twice in the request"):
        session.score_json(body)


@pytest.mark.parametrize("inputs", INPUTS[1:3])
def test_every_door_gives_the_same_scores_to_the_bit(bundle: Path, tmp_path: Path, inputs: dict[str, Any]) -> None:
    tokens = with_tokens(inputs)
    bodies = [json.dumps({"user": USER, "items": ITEMS, "inputs": values}) for values in (inputs, tokens)]
    with runtime.open(bundle) as session:
        expected = session.score(Request(USER, ITEMS, inputs=tokens)).log_odds.tolist()
        for other in ({"device": "phone", "hour": 1}, {"query": [11]}):
            session.clear_cache()
            assert session.score(USER, ITEMS, inputs={**tokens, **other}).log_odds.tolist() != expected, "all matter"
        session.clear_cache()
        assert session.score(USER, ITEMS, inputs=inputs).log_odds.tolist() == expected
        for body in bodies:
            session.clear_cache()
            assert log_odds(json.loads(session.score_json(body).text)) == expected

    assert log_odds(json.loads(run_program("pipe", bundle, stdin=bodies[1]).out)) == expected

    with serving(Pool(partial(runtime.open, bundle), 1, 4)) as service:
        for body in bodies:
            reply = service.ask("POST", "/v1/score", body.encode())
            assert reply.status == 200 and log_odds(reply.json) == expected

    for values in (inputs, tokens):
        columns = {name: pl.Series([value] * len(ITEMS)) for name, value in values.items() if value is not None}
        pairs = pl.DataFrame({"user_id": [USER] * len(ITEMS), "item_id": ITEMS, **columns}).to_arrow()
        assert score_table(bundle)(pairs)["raw_log_odds"].to_pylist() == expected


def log_odds(answer: dict[str, Any]) -> list[float]:
    return [float(np.float32(score["log_odds"])) for score in answer["scores"]]


def test_serve_reads_the_tokenizer_when_it_opens_the_bundle(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    reads, read = [], runtime.Session._read_texts
    monkeypatch.setattr(runtime.Session, "_read_texts", lambda session: reads.append(read(session)) or reads[-1])
    with serving(Pool(partial(runtime.open, folder), 2, 4)) as service:
        assert len(reads) == 2 and reads[0] is reads[1], "sessions share it"
        (folder / "tokenizer.json").unlink()
        assert service.score(user=USER, items=ITEMS, inputs={"device": "tv", "query": "wing"}).status == 200


def test_warm_up_parses_the_tokenizer(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parses, parse = [], texts.parse_tokenizer
    monkeypatch.setattr(texts, "parse_tokenizer", lambda *arguments: parses.append(arguments) or parse(*arguments))
    with runtime.open(bundle) as session:
        session.warm_up()
        assert len(parses) == 1
        session.score(USER, ITEMS, inputs={"device": "tv", "query": "wing"})
    assert len(parses) == 1


def test_a_tokenizer_is_read_only_for_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    add_tokenizer(bundle, words_tokenizer().to_str())
    reads: list[bytes] = []
    monkeypatch.setattr(runtime.session, "InputTokenizer", reads.append)
    with runtime.open(bundle) as session:
        session.warm_up()
        session.score(USER, ITEMS)
    assert reads == []


def test_tokenizing_counts_toward_the_deadline(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with runtime.open(bundle) as session:
        body = json.dumps({"user": USER, "items": ITEMS, "inputs": {"device": "tv", "query": "wing"}})
        session.warm_up()
        assert (
            json.loads(session.score_json(body, waited_us=10_000_000, deadline_us=60_000_000).text)["stats"]["queue_us"]
            >= 10_000_000
        )
        ticks = iter((0, 50_000_000_000))
        monkeypatch.setattr(runtime.session.time, "monotonic_ns", lambda: next(ticks))
        with pytest.raises(DeadlineError, match="the deadline passed while the request waited"):
            session.score_json(body, waited_us=10_000_000, deadline_us=60_000_000)
        ticks = iter((0, 50_000_000_000))
        with pytest.raises(DeadlineError):
            session.score(USER, ITEMS, inputs={"device": "tv", "query": "wing"}, deadline_ms=50_000)


def test_a_prefix_is_shared_up_to_what_changes(bundle: Path) -> None:
    """Another device or query: only what follows its first other token is computed again. Another hour or note, in the
    candidates' part: nothing."""
    requests = [
        Request(USER, ITEMS, inputs=inputs)
        for inputs in (
            {"device": "tv", "hour": 1, "query": [4, 5, 6]},
            {"device": "tv", "hour": 13, "query": [4, 5, 6], "note": [7, 8]},
            {"device": "tv", "hour": 13, "query": [4, 7], "note": [7, 8]},
            {"device": "phone", "hour": 13, "query": [4, 7], "note": [7, 8]},
        )
    ]
    with runtime.open(bundle) as session:
        whole, candidate, query, device = (session.score(request).stats for request in requests)
        tv, phone = (session.prompt(request)[0] for request in requests[2:])
    shared = next(n for n, (a, b) in enumerate(zip(tv, phone, strict=False)) if a != b)
    assert whole.prefix_tokens_reused == 0
    assert candidate.prefix_tokens_reused == candidate.prefix_tokens == whole.prefix_tokens
    assert query.prefix_tokens == whole.prefix_tokens - 1 and query.prefix_tokens_reused == whole.prefix_tokens - 2
    assert device.prefix_tokens_reused == shared < query.prefix_tokens_reused
    computed = [stats.segments[0].prefix_tokens for stats in (whole, candidate, query, device)]
    assert computed == [whole.prefix_tokens, 0, 1, device.prefix_tokens - shared]
