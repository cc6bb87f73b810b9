"""A request as an object, as its fields, as token ids and in JSON: the same answers."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders.bundles.bundle import write_bundle
from builders.bundles.bundle_files import write_policy
from builders.bundles.catalog import ITEM_IDS, USER_IDS
from rexit import Request, runtime
from rexit.doors.pool import Pool
from rexit.errors import DeadlineError, InputError
from running.program import run_program
from running.service import serving

USER, ITEMS = USER_IDS[2], [int(item) for item in ITEM_IDS[:8]]
RECENT = [(ITEMS[3], True), (ITEMS[5], False)]
REQUEST = Request(USER, ITEMS, recent=RECENT, as_of=60)
BODY: dict[str, Any] = {"user": USER, "items": ITEMS, "recent": [ITEMS[3], [ITEMS[5], False]], "as_of": 60}
EARLY = runtime.StopRule([0.0] * 3, [0.0] * 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_bundle(tmp_path_factory.mktemp("request") / "bundle")
    write_policy(folder, [{"a": 1.1, "b": 0.1, "upper": 0.5, "lower": 0.5}] * 3)
    return folder


@pytest.fixture(scope="module")
def session(folder: Path) -> Iterator[runtime.Session]:
    with runtime.open(folder) as session:
        yield session


def in_json(session: runtime.Session, body: dict[str, Any], **options: Any) -> dict[str, Any]:
    answer = session.score_json(json.dumps(body), **options)
    assert answer.stats.candidates == len(body.get("items") or body["candidates"])
    value: dict[str, Any] = json.loads(answer.text)
    return value


def tokens_of(session: runtime.Session) -> Request:
    return Request.tokens(*session.prompt(REQUEST))


def test_a_request_and_its_fields(session: runtime.Session) -> None:
    fields = {"recent": RECENT, "as_of": 60}
    assert session.score(REQUEST) == session.score(USER, ITEMS, **fields)
    np.testing.assert_array_equal(session.trace(REQUEST), session.trace(USER, ITEMS, **fields))
    assert len(set(session.score(REQUEST).exit)) > 1


def test_every_door_retrieves_the_same_items(session: runtime.Session, folder: Path) -> None:
    body = {"user": USER, "retrieve": 6, "recent": [ITEMS[3], [ITEMS[5], False]], "as_of": 60, "top_k": 4}
    expected = session.score(Request(USER, retrieve=6, recent=RECENT, as_of=60, top_k=4))
    with serving(Pool(session.another, 1, 4)) as service:
        answers = [
            json.loads(session.score_json(json.dumps(body)).text),
            service.ask("POST", "/v1/score", json.dumps(body).encode()).json,
            json.loads(run_program("pipe", folder, stdin=json.dumps(body).encode()).out),
        ]
    for answer in answers:
        assert [score["item"] for score in answer["scores"]] == expected.items.tolist()
        np.testing.assert_allclose([score["log_odds"] for score in answer["scores"]], expected.log_odds, atol=1e-5)


def test_a_request_and_its_tokens(session: runtime.Session) -> None:
    tokens = tokens_of(session)
    np.testing.assert_array_equal(session.trace(tokens), session.trace(REQUEST))
    scores, expected = session.score(tokens), session.score(REQUEST)
    np.testing.assert_array_equal(scores.log_odds, expected.log_odds)
    assert scores.items.tolist() == list(range(len(ITEMS))) and not scores.stats.known_user
    prefix, candidates = session.prompt(tokens)
    assert prefix.tolist() == np.asarray(tokens.prefix).tolist()
    assert [part.tolist() for part in candidates] == [np.asarray(part).tolist() for part in tokens.candidates]


@pytest.mark.parametrize("options", [{}, {"top_k": 3}, {"force_exit": 1}, {"deadline_ms": 1e6}])
def test_a_request_in_json(session: runtime.Session, options: dict[str, Any]) -> None:
    expected = session.score(REQUEST, **options).to_dict()
    answer = in_json(session, {**BODY, **options, "id": "a"})
    assert (answer["id"], answer["user"], answer["known"], answer["variant"]) == ("a", USER, True, "cpu-fp32")
    assert answer["scores"] == expected["scores"]
    assert answer["stats"].keys() == {*expected["stats"], "queue_us"}

    prefix, candidates = session.prompt(REQUEST)
    tokens = {"prefix": prefix.tolist(), "candidates": [part.tolist() for part in candidates]}
    by_tokens = in_json(session, {**tokens, **options})
    assert by_tokens.keys() == {"variant", "scores", "stats"}
    assert by_tokens["scores"] == [{**score, "item": ITEMS.index(score["item"])} for score in expected["scores"]]


def test_the_callers_settings_of_a_request_in_json(session: runtime.Session) -> None:
    exits = [score["exit"] for score in in_json(session, {**BODY, "force_exit": 0}, force_exit=2)["scores"]]
    assert exits == [2] * len(ITEMS)
    expected = session.score(REQUEST, policy=EARLY).to_dict()["scores"]
    assert in_json(session, BODY, policy=EARLY)["scores"] == expected
    assert in_json(session, BODY, waited_us=1234)["stats"]["queue_us"] == 1234
    for body, options in ((BODY, {"deadline_us": 2000}), ({**BODY, "deadline_ms": 2}, {"deadline_us": 10**9})):
        with pytest.raises(DeadlineError):
            session.score_json(json.dumps(body), waited_us=2001, **options)
    assert len(in_json(session, {**BODY, "deadline_ms": 1e6}, waited_us=3000, deadline_us=2000)["scores"]) == len(ITEMS)


@pytest.mark.parametrize(("name", "limit"), [("force_exit", 2**31 - 1), ("waited_us", 10**15), ("deadline_us", 10**15)])
def test_the_limits_of_the_callers_settings(session: runtime.Session, name: str, limit: int) -> None:
    for value in (-1, limit + 1, 1 << 63):
        with pytest.raises(InputError, match=f"{name} is {value}, expected an integer from 0 to {limit}"):
            session.score_json(json.dumps(BODY), **{name: value})


def test_the_fields_are_those_that_the_library_reads(session: runtime.Session) -> None:
    with pytest.raises(InputError) as raised:
        session.score_json('{"unknown": 1}')
    listed = re.fullmatch("unknown: a request has no such field, it has: (.*)", str(raised.value))
    assert listed is not None and listed[1].split(", ") == list(Request.__struct_fields__)


def test_fields_beside_a_request_replace_its_own(session: runtime.Session) -> None:
    assert session.score(REQUEST, ITEMS[:2], as_of=50) == session.score(USER, ITEMS[:2], recent=RECENT, as_of=50)
    with pytest.raises(InputError, match="items is set, but the request is token ids"):
        session.trace(tokens_of(session), ITEMS)
    with pytest.raises(InputError, match="items is empty, expected at least one id"):
        session.score(USER)


def test_a_deadline_counts_while_another_thread_has_the_session(session: runtime.Session) -> None:
    long = Request.tokens([3], [[1 + n % 40] * 8 for n in range(10_000)])
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(session.score, long)
        time.sleep(0.02)
        with pytest.raises(DeadlineError, match="the deadline passed while the request waited"):
            session.score(USER, ITEMS, deadline_ms=1)
        other.result()


@pytest.mark.parametrize("true", [True, np.True_])
def test_a_token_is_no_truth(session: runtime.Session, true: Any) -> None:
    for request, where in ((Request.tokens([1, true], [[2]]), "prefix"), (Request.tokens([1], [[2, true]]), "candidates[0]")):
        with pytest.raises(InputError, match=re.escape(f"{where}[1] is ")):
            session.score(request)
