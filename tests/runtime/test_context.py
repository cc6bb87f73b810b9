"""A request's context: which prompt it gives, through every door of the runtime, and what is refused."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from builders.bundles.bundle import BundleOptions, write_bundle
from builders.bundles.catalog import ITEM_IDS, USER_IDS, make_catalog, with_context
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
MOMENTS: list[dict[str, Any]] = [
    {"device": "tv", "hour": 21},
    {"device": "phone", "hour": 6},
    {"device": 7, "hour": 18.25},
    {"device": "7", "hour": "18.5"},
    {"device": "tv"},
    {"device": "tv", "hour": 24},
]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("context") / "bundle", BundleOptions(with_context(make_catalog())))


@pytest.mark.parametrize("context", MOMENTS)
def test_python_and_cpp_assemble_the_same_prompt(bundle: Path, context: dict[str, Any]) -> None:
    expected = PromptBuilder(Catalog.open(bundle / "catalog")).prompt(USER, ITEMS, context=context)
    with runtime.open(bundle) as session:
        prefix, candidates = session.prompt(USER, ITEMS, context=context)
    np.testing.assert_array_equal(prefix, expected.prefix)
    for tokens, other in zip(candidates, expected.candidates, strict=True):
        np.testing.assert_array_equal(tokens, other)


def test_each_value_has_its_own_tokens(bundle: Path) -> None:
    with runtime.open(bundle) as session:
        prefixes = {session.prompt(USER, ITEMS, context={"device": device})[0].tobytes() for device in ("tv", "phone", "7")}
        hours = [session.prompt(USER, ITEMS, context={"device": "tv", "hour": hour})[1][0].tolist() for hour in (5.9, 6, 25, -1)]
        left_out = session.prompt(USER, ITEMS, context={"device": "tv"})[1][0].tolist()
    assert len(prefixes) == 3
    assert hours[0] != hours[1] and hours[2] == hours[3] == left_out, "outside its bins: words.missing"


@pytest.mark.parametrize(
    ("context", "message"),
    [
        ({"device": "radio"}, "context 'device' is 'radio', expected one of tv, phone, 7"),
        ({"device": 8}, "context 'device' is 8, expected one of tv, phone, 7"),
        ({"device": 7.5}, "context 'device' is 7.5, expected one of tv, phone, 7"),
        ({}, "context 'device' is missing, expected one of tv, phone, 7"),
        ({"device": "tv", "page": "home"}, "context 'page': the prompt places no such context, it has: device, hour"),
        ({"device": None}, "context 'device' is None, expected a string or a number"),
        ({"device": True}, "context 'device' is True, expected a string or a number"),
        ({7: "tv"}, "a name in context is 7, expected a string"),
        ({"device": "t\0v"}, r"context 'device' is 't\x00v': it must not hold a NUL character"),
        ("tv", "context is 'tv', expected a mapping from names to values"),
    ],
)
def test_what_is_refused(bundle: Path, context: Any, message: str) -> None:
    with runtime.open(bundle) as session, pytest.raises(InputError) as raised:
        session.score(USER, ITEMS, context=context)
    assert str(raised.value) == message


def test_a_name_given_twice(bundle: Path) -> None:
    """Python's mapping cannot; C and the command line can."""
    twice = [("device", "tv"), ("hour", 1.0), ("device", "tv")]
    with runtime.open(bundle) as session, pytest.raises(InputError) as raised:
        session._open.prompt(USER, ITEMS, [], [], None, twice, [])
    assert str(raised.value) == "context 'device' appears twice in the request"


@pytest.mark.parametrize("context", [{"device": "radio"}, {"device": 8}, {}, {"device": "tv", "page": "home"}])
def test_python_refuses_in_the_same_words(bundle: Path, context: dict[str, Any]) -> None:
    with runtime.open(bundle) as session, pytest.raises(InputError) as raised:
        session.score(USER, ITEMS, context=context)
    with pytest.raises(InputError) as reference:
        PromptBuilder(Catalog.open(bundle / "catalog")).prompt(USER, ITEMS, context=context)
    assert str(raised.value) == str(reference.value)


def test_a_prompt_without_contexts_refuses_any(tmp_path: Path) -> None:
    message = "context 'device': the prompt places no such context, it has none"
    with runtime.open(write_bundle(tmp_path / "bundle")) as session, pytest.raises(InputError, match=message):
        session.score(USER, ITEMS, context={"device": "tv"})


@pytest.mark.parametrize("context", MOMENTS)
def test_every_door_gives_the_same_scores_to_the_bit(bundle: Path, tmp_path: Path, context: dict[str, Any]) -> None:
    with runtime.open(bundle) as session:
        scores = session.score(USER, ITEMS, context=context)
        session.clear_cache()
        elsewhere = session.score(USER, ITEMS, context={"device": "phone", "hour": 1})
    expected = scores.log_odds.tolist()
    assert expected != elsewhere.log_odds.tolist(), "the context matters"

    words = [f"--context={name}={value}" for name, value in context.items()]
    slate = [f"--user={USER}", f"--items={','.join(map(str, ITEMS))}"]
    assert _log_odds(json.loads(run_program("score", bundle, "--json", *slate, *words).out)) == expected
    request = json.dumps({"user": USER, "items": ITEMS, "context": context})
    assert _log_odds(json.loads(run_program("pipe", bundle, stdin=request).out)) == expected

    with serving(Pool(partial(runtime.open, bundle), 1, 4)) as service:
        reply = service.score(user=USER, items=ITEMS, context=context)
        assert reply.status == 200 and _log_odds(reply.json) == expected

    columns = {name: pl.Series([value] * len(ITEMS)) for name, value in context.items()}
    pairs, out = tmp_path / "pairs.parquet", tmp_path / "scores.parquet"
    pl.DataFrame({"user_id": [USER] * len(ITEMS), "item_id": ITEMS, **columns}).write_parquet(pairs)
    score_files(Opening(Bundle.open(bundle), 0), BatchOptions(pairs, out, ColumnNames(), None), Local())
    assert pl.read_parquet(out)["log_odds"].to_list() == expected


@pytest.mark.parametrize(
    ("context", "message"),
    [
        ({"device": None}, "context.device: got None, expected a string or a number"),
        ({"device": [1]}, "context.device: got [1], expected a string or a number"),
        (["device"], "context: got ['device'], expected: a valid dictionary"),
        ({"device": "radio"}, "context 'device' is 'radio', expected one of tv, phone, 7"),
        ({}, "context 'device' is missing, expected one of tv, phone, 7"),
        ({"device": "tv", "page": 1}, "context 'page': the prompt places no such context, it has: device, hour"),
    ],
)
def test_http_refuses_in_one_line(bundle: Path, context: Any, message: str) -> None:
    with serving(Pool(partial(runtime.open, bundle), 1, 4)) as service:
        reply = service.score(user=USER, items=ITEMS, context=context)
    assert (reply.status, reply.json) == (422, {"error": message})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--context", "device"], "context 'device', expected NAME=VALUE, as in device=tv"),
        (["--context", "=tv"], "context '=tv', expected NAME=VALUE, as in device=tv"),
        (["--context", "device=tv", "--context", "device=tv"], "context 'device' appears twice in the request"),
        (["--context", "device=radio"], "context 'device' is 'radio', expected one of tv, phone, 7"),
        ([], "context 'device' is missing, expected one of tv, phone, 7"),
    ],
)
def test_the_program_refuses_in_one_line(bundle: Path, words: list[str], message: str) -> None:
    assert_one_error(run_program("score", bundle, f"--user={USER}", f"--items={ITEMS[0]}", *words), 2, message)


@pytest.mark.parametrize(
    ("context", "message"),
    [
        ('{"device": null}', "line 1: context 'device' is null, expected a string or a number"),
        ('["device"]', "line 1: context is array, expected an object"),
        ('{"device": "radio"}', "context 'device' is 'radio', expected one of tv, phone, 7"),
    ],
)
def test_the_pipe_answers_in_one_line(bundle: Path, context: str, message: str) -> None:
    request = f'{{"user": {USER}, "items": [{ITEMS[0]}], "context": {context}}}'
    answer = json.loads(run_program("pipe", bundle, stdin=request).out)
    assert answer["error"] == {"status": "REXIT_INVALID_ARGUMENT", "message": message}


def _log_odds(answer: dict[str, Any]) -> list[float]:
    return [float(np.float32(score["log_odds"])) for score in answer["scores"]]


def test_a_prefix_is_shared_up_to_its_context(bundle: Path) -> None:
    """Another device: only what stands from its value on is computed again. Another hour, in the candidates' part: nothing."""
    with runtime.open(bundle) as session:
        whole = session.score(USER, ITEMS, context={"device": "tv", "hour": 1}).stats
        other_hour = session.score(USER, ITEMS, context={"device": "tv", "hour": 13}).stats
        other_device = session.score(USER, ITEMS, context={"device": "phone", "hour": 13}).stats
        prefixes = [session.prompt(USER, ITEMS, context={"device": device})[0] for device in ("tv", "phone")]
    shared = next(n for n, (a, b) in enumerate(zip(*prefixes, strict=False)) if a != b)
    assert whole.prefix_tokens_reused == 0
    assert other_hour.prefix_tokens_reused == other_hour.prefix_tokens == whole.prefix_tokens
    assert other_device.prefix_tokens_reused == shared >= other_device.prefix_tokens - 2
    computed = [stats.segments[0].prefix_tokens for stats in (whole, other_hour, other_device)]
    assert computed == [whole.prefix_tokens, 0, other_device.prefix_tokens - shared]
