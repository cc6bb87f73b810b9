"""Bad requests are refused in the same words at every door: Python's fields, JSON in Python, `rexit-run pipe`, HTTP; and bad
values of inputs by the independent reader in Python."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from builders.bundles.reranker import write_reranker
from refusals.table import GOOD, INPUTS, PROMPT, REFUSALS, SCORES, Refusal, explains, write_bundle_with_inputs
from rexit import TokenRequest, runtime
from rexit.bundle import Catalog
from rexit.errors import InputError
from rexit.serve import Pool
from running.program import run_program
from running.service import Service, serving

MAX_BYTES = 1 << 20
BY_FIELDS = [refusal for refusal in REFUSALS if refusal.fields is not None]
BY_SESSION = ["an empty text", "a text too long", "a lone surrogate", "a text of 500 kB", "a name that is no text"]
BY_SESSION += ["a NUL in a value", "a NUL in a text", "inputs that are no object"]
"""What is refused before, or by the tokenizer."""
BY_JSON = [refusal for refusal in REFUSALS if refusal.body is not None]


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


@pytest.fixture(scope="module")
def piped(bundle: Path) -> dict[str, Any]:
    """The pipe's answers: to refusals by the number of their line, to good requests between them by their id."""
    lines = []
    for refusal in BY_JSON:
        assert refusal.body is not None
        lines += [refusal.body, json.dumps({"id": refusal.name, **GOOD}).encode()]
    ended = run_program("pipe", bundle, stdin=b"\n".join(lines))
    assert ended.code == 0, ended.err
    answers = [json.loads(line) for line in ended.out.splitlines()]
    return {answer["id"] if "id" in answer else answer["error"]["message"].split(": ")[0]: answer for answer in answers}


@named(BY_FIELDS)
def test_fields_in_python(session: runtime.Session, refusal: Refusal) -> None:
    fields = dict(refusal.fields or {})
    with pytest.raises(InputError) as raised:
        session.score(fields.pop("user"), fields.pop("items"), **fields)
    assert explains(refusal.in_python or refusal.message, str(raised.value)), raised.value


@named([r for r in BY_FIELDS if (r.fields or {})["inputs"] != INPUTS and r.name not in BY_SESSION])
def test_inputs_of_the_reference(bundle: Path, refusal: Refusal) -> None:
    """The independent assembler of prompts, which trains and checks models, refuses the same values."""
    assert refusal.fields is not None
    with pytest.raises(InputError) as raised:
        Catalog.open(bundle / "catalog").inputs.encode(refusal.fields["inputs"])
    assert explains(refusal.in_python or refusal.message, str(raised.value)), raised.value


@named(BY_JSON)
def test_json_in_python(session: runtime.Session, refusal: Refusal) -> None:
    assert refusal.body is not None
    with pytest.raises(InputError) as raised:
        session.score_json(refusal.body)
    assert explains(refusal.message, str(raised.value)), raised.value
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 1000


@named(BY_JSON)
def test_pipe(piped: dict[str, Any], refusal: Refusal) -> None:
    assert refusal.body is not None
    assert len(piped[refusal.name]["scores"]) == 2, "the next line is answered"
    line = f"line {2 * BY_JSON.index(refusal) + 1}"
    if not refusal.body.strip():
        assert line not in piped, "an empty line is no request"
        return
    error = piped[line]["error"]
    message = error["message"].removeprefix(f"{line}: ")
    if len(refusal.body) > MAX_BYTES:
        assert message == f"longer than {MAX_BYTES} bytes"
    elif b'"query": "' in refusal.body and b"\\u0000" not in refusal.body:
        assert message == "inputs.query is a text, expected token ids: the library has no tokenizer"
    else:
        assert explains(refusal.message, message) and error["status"] == refusal.status, error


@named(BY_JSON)
def test_http(service: Service, refusal: Refusal) -> None:
    assert refusal.body is not None
    reply = service.ask("POST", "/v1/score", refusal.body)
    if len(refusal.body) > MAX_BYTES:
        assert (reply.status, reply.json["error"]) == (413, f"body: got more than {MAX_BYTES} bytes, expected at most that")
    else:
        assert reply.status == 422 and list(reply.json) == ["error"], reply.text
        assert explains(refusal.message, reply.json["error"]), reply.json


def test_the_good_request_is_answered(session: runtime.Session, service: Service) -> None:
    expected = session.score(GOOD["user"], GOOD["items"], inputs=GOOD["inputs"]).to_dict()["scores"]
    assert json.loads(session.score_json(json.dumps(GOOD)).text)["scores"] == expected
    assert service.score(**GOOD).json["scores"] == expected


def test_scores_of_a_first_stage(tmp_path: Path) -> None:
    bundle = write_reranker(tmp_path / "bundle", zero=True)
    bodies = [json.dumps({**PROMPT, "scores": scores}).encode() for scores, _ in [*SCORES, (PROMPT["scores"], "")]]
    ended = run_program("pipe", bundle, stdin=b"\n".join(bodies))
    *piped, good = [json.loads(line) for line in ended.out.splitlines()]
    documents = {"query": "wing", "documents": ["heat", "flow"]}
    with runtime.open(bundle) as session, serving(Pool(partial(runtime.open, bundle), 1, 4)) as service:
        assert good["scores"] == session.score(TokenRequest(**PROMPT)).to_dict()["scores"]
        for (scores, message), body, line in zip(SCORES, bodies, piped, strict=False):
            with pytest.raises(InputError) as by_fields:
                session.score(TokenRequest(**{**PROMPT, "scores": scores}))
            with pytest.raises(InputError) as by_json:
                session.score_json(body)
            assert str(by_fields.value) == str(by_json.value) == message
            assert line["error"]["message"].partition(": ")[2] == message
            assert service.ask("POST", "/v1/score", body).json == {"error": message}
            reply = service.ask("POST", "/v1/rerank", json.dumps({**documents, "scores": scores}).encode())
            assert reply.status == 422 and "scores" in reply.json["error"] and "\n" not in reply.json["error"], reply.text
        with pytest.raises(InputError, match=r"scores\[0\] is nan, expected a finite number"):
            session.score(TokenRequest(**{**PROMPT, "scores": [float("nan"), 1.0]}))
        with pytest.raises(InputError, match="not valid JSON"):
            session.score_json(bodies[-1].replace(b"1.5", b"NaN"))
