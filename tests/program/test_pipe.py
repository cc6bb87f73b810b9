"""`rexit-run pipe`: lines of JSON in, lines of JSON out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from builders.bundles.catalog import ITEM_IDS, USER_IDS, string_id
from rexit import runtime
from running.program import PROGRAM, assert_one_error, environment, run_program


def lines(requests: Iterable[Any]) -> str:
    return "".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in requests)


def served(bundle: Path, requests: Iterable[Any], *words: object) -> list[Any]:
    ended = run_program("pipe", bundle, *words, stdin=lines(requests))
    assert ended.code == 0, ended.err
    return [json.loads(line) for line in ended.out.splitlines()]


def test_answers_are_those_of_python(bundle: Path) -> None:
    requests = [
        {"id": "a", "user": 100, "items": ITEM_IDS},
        {"id": 7, "user": 100, "items": [3, 8]},
        {"id": None, "user": 5, "items": [3, 8, -7], "recent": [18, [23, False]], "top_k": 2},
        {"user": 103, "items": [3, 8], "as_of": 20, "force_exit": 1, "deadline_ms": 60000, "top_k": 0},
    ]
    answers = served(bundle, requests)
    assert [one["id"] for one in answers] == ["a", 7, None, None]
    with runtime.open(bundle) as session:
        session.warm_up()  # as the program does
        for request, one in zip(requests, answers, strict=True):
            recent = [tuple(x) if isinstance(x, list) else x for x in request.get("recent", ())]
            options = {name: request.get(name) for name in ("as_of", "force_exit", "deadline_ms")}
            options["top_k"] = request.get("top_k") or 0
            scores = session.score(request["user"], request["items"], recent=recent or None, **options)
            assert one["known"] == scores.stats.known_user == (request["user"] != 5)
            assert one["scores"] == scores.to_dict()["scores"]
            assert one["stats"]["prefix_tokens_reused"] == scores.stats.prefix_tokens_reused
    assert answers[1]["stats"]["prefix_tokens_reused"] == answers[1]["stats"]["prefix_tokens"] > 0, "kept from the first"


def test_string_ids(string_bundle: Path) -> None:
    (one,) = served(string_bundle, [{"user": string_id("user", 1), "items": [string_id("item", 4)]}])
    assert one["scores"][0]["item"] == string_id("item", 4)
    (one,) = served(string_bundle, [{"user": 1, "items": ["a"]}])
    assert "user 1: this catalog's user ids are strings" in one["error"]["message"]


def test_sessions_answer_all(bundle: Path) -> None:
    requests = [{"id": n, "user": USER_IDS[n % len(USER_IDS)], "items": ITEM_IDS} for n in range(60)]
    answers = {one["id"]: one for one in served(bundle, requests, "--sessions", 3, "--threads", 1)}
    assert sorted(answers) == list(range(60))
    for n, user in enumerate(USER_IDS):
        reused = [answers[m]["stats"]["prefix_tokens_reused"] for m in range(n, 60, len(USER_IDS))]
        size = answers[n]["stats"]["prefix_tokens"]
        assert all(x == size for x in reused[1:]), f"user {user}'s prefix stays in one session"


@pytest.mark.parametrize(
    ("line", "status", "expected"),
    [
        ("{", "REXIT_INVALID_ARGUMENT", "line 1: not valid JSON: "),
        ("[]", "REXIT_INVALID_ARGUMENT", "line 1: a JSON object expected, this is array"),
        ('{"user": 100}', "REXIT_INVALID_ARGUMENT", "no `items`"),
        ('{"user": 100, "items": []}', "REXIT_INVALID_ARGUMENT", "no items given"),
        ('{"user": 100, "items": 3}', "REXIT_INVALID_ARGUMENT", "items is number, expected an array"),
        ('{"user": 100, "items": ["3"]}', "REXIT_INVALID_ARGUMENT", "ids are 64-bit integers"),
        ('{"user": 100, "items": [3.0]}', "REXIT_INVALID_ARGUMENT", "item 3.0"),
        ('{"user": 18446744073709551615, "items": [3]}', "REXIT_INVALID_ARGUMENT", "user 18446744073709551615"),
        ('{"user": 100, "items": [3], "top_k": -1}', "REXIT_INVALID_ARGUMENT", "top_k is -1, expected an integer from 0"),
        ('{"user": 100, "items": [3], "topk": 1}', "REXIT_INVALID_ARGUMENT", 'unknown key "topk"'),
        ('{"user": 100, "items": [3], "deadline_ms": -1}', "REXIT_INVALID_ARGUMENT", "deadline_ms is -1"),
        (
            '{"user": 100, "items": [3], "deadline_ms": 1e306}',
            "REXIT_INVALID_ARGUMENT",
            "deadline_ms is 1e+306, expected more than 0",
        ),
        (
            '{"user": 100, "items": [3], "deadline_ms": 1e400}',
            "REXIT_INVALID_ARGUMENT",
            "line 1: not valid JSON: number overflow",
        ),
        ('{"user": 100, "items": [3], "deadline_ms": NaN}', "REXIT_INVALID_ARGUMENT", "line 1: not valid JSON: "),
        ('{"user": 100, "items": [3], "deadline_ms": "1"}', "REXIT_INVALID_ARGUMENT", "deadline_ms is string, expected a number"),
        ('{"user": 100, "items": ' + "[" * 900 + "]" * 900 + "}", "REXIT_INVALID_ARGUMENT", "nested deeper than 8"),
        (r'{"user": "\ud800", "items": [3]}', "REXIT_INVALID_ARGUMENT", "line 1: not valid JSON: "),
        (r'{"user": 100, "items": [3], "a\nb": 1}', "REXIT_INVALID_ARGUMENT", r'unknown key "a\nb"'),
        ('{"user": 100, "items": [3], "recent": [[3, 1]]}', "REXIT_INVALID_ARGUMENT", "recent has [3,1]"),
        ('{"user": 100, "items": [3], "force_exit": 9}', "REXIT_INVALID_ARGUMENT", "9"),
        ('{"user": 100, "items": [4]}', "REXIT_UNKNOWN_ITEM", "item 4 is not in the catalog"),
        ('{"user": 100, "items": [3], "deadline_ms": 0.001}', "REXIT_DEADLINE", "deadline"),
        ("[" * 100_000, "REXIT_INVALID_ARGUMENT", "nested deeper than 8"),
        ('"' + "x" * (1 << 20) + '"', "REXIT_INVALID_ARGUMENT", "longer than 1048576 bytes"),
    ],
)
def test_a_bad_line_gives_an_error_and_the_next_is_answered(bundle: Path, line: str, status: str, expected: str) -> None:
    bad, good = served(bundle, [line, "", {"id": 2, "user": 100, "items": [3]}])
    assert bad.keys() == {"id", "error"} and bad["error"]["status"] == status
    assert expected in bad["error"]["message"] and "\n" not in bad["error"]["message"]
    assert good["id"] == 2 and len(good["scores"]) == 1


def test_bytes_that_are_not_text(bundle: Path) -> None:
    ended = run_program("pipe", bundle, stdin=b'{"user": "\xff"}\n\0\n{"id": "\xc3\xa9", "user": 100, "items": [3]}')
    answers = [json.loads(line) for line in ended.out.splitlines()]
    assert ended.code == 0 and ["error" in one for one in answers] == [True, True, False]
    assert answers[2]["id"] == "é", "also a last line without its end"


def test_an_error_keeps_the_id(bundle: Path) -> None:
    (one,) = served(bundle, [{"id": 5, "user": 100}])
    assert one["id"] == 5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it(bundle: Path, number: signal.Signals) -> None:
    with subprocess.Popen(
        [PROGRAM, "pipe", bundle], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(lines([{"id": 1, "user": 100, "items": [3]}]).encode())
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["id"] == 1, "it answers while stdin is open"
        process.send_signal(number)
        assert process.wait(30) == 0
        assert process.stdout.read() == b""


def test_stdout_that_is_closed(bundle: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        ended = subprocess.run(
            [PROGRAM, "pipe", bundle],
            input=lines([{"user": 100, "items": [3]}] * 50).encode(),
            stdout=write,
            stderr=subprocess.PIPE,
            env=environment(),
            timeout=60,
        )
    finally:
        os.close(write)
    assert ended.returncode == 1 and b"stdout: cannot be written: Broken pipe" in ended.stderr


def test_no_bundle(tmp_path: Path) -> None:
    assert_one_error(run_program("pipe", tmp_path / "none"), 4, "none")
