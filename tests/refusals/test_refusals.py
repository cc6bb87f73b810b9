"""Bad requests are refused by the library, in the same words at every door. All of them by `Session.score_json`; C++, C and the
builder in C++: tests/cpp/api/test_request.cpp."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders.bundles.reranker import write_reranker
from refusals.table import GOOD, INPUTS, PROMPT, REFUSALS, SCORES, Refusal, explains, write_bundle_with_inputs
from rexit import Request, runtime
from rexit.doors.pool import Pool
from rexit.errors import InputError
from rexit.format.bundle import Catalog
from running.program import run_program
from running.service import Service, serving

MAX_BYTES = 1 << 20
DOORS = [refusal for refusal in REFUSALS if refusal.name in ("an unknown item", "a value outside the list", "no JSON")]
BY_TOKENIZER = ["an empty text", "a text too long", "a text of 500 kB"]


def named(refusals: list[Refusal]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("refusal", refusals, ids=[refusal.name for refusal in refusals])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle_with_inputs(tmp_path_factory.mktemp("refusals") / "bundle")


@pytest.fixture(scope="module")
def session(bundle: Path) -> Iterator[runtime.Session]:
    with runtime.open(bundle) as session:
        yield session


@pytest.fixture(scope="module")
def service(bundle: Path) -> Iterator[Service]:
    with serving(Pool(partial(runtime.open, bundle), 1, 4)) as service:
        yield service


@named(REFUSALS)
def test_the_library_refuses(session: runtime.Session, refusal: Refusal) -> None:
    with pytest.raises(InputError) as raised:
        session.score_json(refusal.body)
    message = str(raised.value)
    assert explains(refusal.message, message) and raised.value.status == refusal.status, message
    assert "\n" not in message and len(message) < 1000


@named([refusal for refusal in REFUSALS if refusal.values is not None and refusal.name not in BY_TOKENIZER])
def test_inputs_of_the_reference(bundle: Path, refusal: Refusal) -> None:
    """The independent assembler of prompts, which trains and checks models, refuses the same values."""
    with pytest.raises(InputError) as raised:
        Catalog.open(bundle / "catalog").inputs.encode(refusal.values)
    assert explains(refusal.in_python or refusal.message, str(raised.value)), raised.value


def test_fields_in_python(session: runtime.Session) -> None:
    for refusal in DOORS[:2]:
        with pytest.raises(InputError) as raised:
            session.score(Request(**json.loads(refusal.body)))
        assert explains(refusal.message, str(raised.value)), raised.value


DEVICE = "expected one of tv, phone, 7"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": {"a": [1.0, math.inf]}}, "scores.a[1] is inf, expected a finite number"),
        ({"scores": {"a": np.array([-math.inf])}}, "scores.a[0] is -inf, expected a finite number"),
        ({"items": np.array([3.0, 8.0])}, "items[0] is 3.0, expected a 64-bit integer or a string"),
        ({"items": 3}, "items is 3, expected an array of ids"),
        ({"items": np.array([True, False])}, "items[0] is true, expected a 64-bit integer or a string"),
        ({"user": b"100"}, "user is b'100', expected a 64-bit integer or a string"),
        ({"user": "\ud800"}, "the request is not JSON: …"),
        ({"user": object()}, "the request is not JSON: …"),
        ({"recent": [(3, 1)]}, "recent[0][1] is 1, expected true or false"),
        ({"inputs": {**INPUTS, "device": math.nan}}, "inputs.device is nan, expected a finite number"),
        ({"inputs": {**INPUTS, "device": Fraction(15, 2)}}, f"inputs.device is 7.5, {DEVICE}"),
        ({"inputs": {**INPUTS, "device": np.array("radio")}}, f"inputs.device is 'radio', {DEVICE}"),
        ({"inputs": {**INPUTS, "device": np.array([7])}}, f"inputs.device is token ids, {DEVICE}"),
        ({"inputs": {**INPUTS, 7: "x"}}, "inputs.7: the prompt has no such input, …"),
        ({"deadline_ms": math.nan}, "deadline_ms is nan, expected a finite number"),
    ],
)
def test_what_only_python_can_say(session: runtime.Session, changes: dict[str, Any], message: str) -> None:
    """JSON has no digits for NaN."""
    with pytest.raises(InputError) as raised:
        session.score(Request(**{**GOOD, **changes}))
    assert explains(message, str(raised.value)), raised.value


def test_pipe(bundle: Path) -> None:
    good = json.dumps({"id": "good", **GOOD}).encode()
    ended = run_program("pipe", bundle, stdin=b"\n".join([line for refusal in DOORS for line in (refusal.body, good)]))
    assert ended.code == 0, ended.err
    answers = [json.loads(line) for line in ended.out.splitlines()]
    errors = {answer["error"]["message"]: answer["error"]["status"] for answer in answers if "error" in answer}
    assert len(answers) == 2 * len(DOORS) and len(errors) == len(DOORS), "the next line is answered"
    for n, refusal in enumerate(DOORS):
        assert any(
            explains(f"line {2 * n + 1}: {refusal.message}", message) and status == refusal.status
            for message, status in errors.items()
        )


@named(DOORS)
def test_http(service: Service, refusal: Refusal) -> None:
    reply = service.ask("POST", "/v1/score", refusal.body)
    assert reply.status == 422 and list(reply.json) == ["error"], reply.text
    assert explains(refusal.message, reply.json["error"]), reply.json


def test_bodies_are_bounded(bundle: Path, service: Service) -> None:
    body = b'{"id": "' + b"x" * MAX_BYTES + b'"}'
    reply = service.ask("POST", "/v1/score", body)
    assert (reply.status, reply.json["error"]) == (413, f"body: got more than {MAX_BYTES} bytes, expected at most that")
    ended = run_program("pipe", bundle, stdin=body)
    assert json.loads(ended.out)["error"]["message"] == f"line 1: longer than {MAX_BYTES} bytes"


def test_a_text_without_a_tokenizer(bundle: Path) -> None:
    ended = run_program("pipe", bundle, stdin=json.dumps({**GOOD, "inputs": {**INPUTS, "query": "wing"}}).encode())
    error = json.loads(ended.out)["error"]
    assert error["message"] == "line 1: inputs.query is a text, expected token ids: the library has no tokenizer"


def test_the_good_request_is_answered(session: runtime.Session, service: Service) -> None:
    expected = session.score(GOOD["user"], GOOD["items"], inputs=GOOD["inputs"]).to_dict()["scores"]
    assert json.loads(session.score_json(json.dumps(GOOD)).text)["scores"] == expected
    assert service.score(**GOOD).json["scores"] == expected


def test_scores_of_a_first_stage(tmp_path: Path) -> None:
    bundle = write_reranker(tmp_path / "bundle", zero=True)
    documents = {"query": "wing", "documents": ["heat", "flow"]}
    with runtime.open(bundle) as session, serving(Pool(partial(runtime.open, bundle), 1, 4)) as service:
        assert service.score(**PROMPT).json["scores"] == session.score(Request(**PROMPT)).to_dict()["scores"]
        for scores, message in SCORES:
            with pytest.raises(InputError) as raised:
                session.score(Request(**{**PROMPT, "scores": scores}))
            assert str(raised.value) == message
            reply = service.ask("POST", "/v1/rerank", json.dumps({**documents, "scores": scores}).encode())
            assert reply.status == 422 and "scores" in reply.json["error"] and "\n" not in reply.json["error"], reply.text
