"""`rexit-run pipe`: lines of JSON in, lines of JSON out."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from builders.bundles.catalog import ITEM_IDS, USER_IDS
from builders.bundles.pairs import bert, write_pairs
from rexit import Request, runtime
from rexit.format.bundle.manifest import Pair
from running.program import PROGRAM, environment, run_program


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
        {"id": 1.5, "user": 5, "items": [3, 8, -7], "recent": [18, [23, False]], "top_k": 2},
        {"user": 103, "items": [3, 8], "as_of": 20, "force_exit": 1, "deadline_ms": 60000, "top_k": 0},
    ]
    answers = served(bundle, requests)
    assert [one.get("id") for one in answers] == ["a", 7, 1.5, None]
    with runtime.open(bundle) as session:
        session.warm_up()  # as the program does
        for request, one in zip(requests, answers, strict=True):
            recent = [tuple(x) if isinstance(x, list) else x for x in request.get("recent", ())]
            options = {name: request.get(name) for name in ("as_of", "force_exit", "deadline_ms")}
            options["top_k"] = request.get("top_k") or 0
            scores = session.score(request["user"], request["items"], recent=recent or None, **options)
            assert one["known"] == scores.stats.known_user == (request["user"] != 5)
            assert one["scores"] == scores.to_dict()["scores"] and one["user"] == request["user"]
            assert one["stats"]["prefix_tokens_reused"] == scores.stats.prefix_tokens_reused
    assert answers[1]["stats"]["prefix_tokens_reused"] == answers[1]["stats"]["prefix_tokens"] > 0, "kept from the first"


def test_users_whose_ids_have_a_stride_meet_in_no_session(bundle: Path) -> None:
    """They have one prefix, which each session computes once."""
    requests = [{"user": user, "items": ITEM_IDS, "recent": [3, 8, 18, 23]} for user in range(3000, 3090, 3)]
    stats = [answer["stats"] for answer in served(bundle, requests, "--sessions", 3, "--threads", 1)]
    assert sum(row["prefix_tokens_reused"] < row["prefix_tokens"] for row in stats) == 3


def test_sessions_answer_all(bundle: Path) -> None:
    requests = [{"id": n, "user": USER_IDS[n % len(USER_IDS)], "items": ITEM_IDS} for n in range(60)]
    answers = {one["id"]: one for one in served(bundle, requests, "--sessions", 3, "--threads", 1)}
    assert sorted(answers) == list(range(60))
    for n, user in enumerate(USER_IDS):
        reused = [answers[m]["stats"]["prefix_tokens_reused"] for m in range(n, 60, len(USER_IDS))]
        size = answers[n]["stats"]["prefix_tokens"]
        assert all(x == size for x in reused[1:]), f"user {user}'s prefix stays in one session"


def test_a_prompt_as_token_ids(bundle: Path) -> None:
    prefix, candidates = [3, 4, 5], [[6], [7, 8]]
    request = {"prefix": prefix, "candidates": candidates}
    answers = served(bundle, [request, request], "--sessions", 3)
    with runtime.open(bundle) as session:
        session.warm_up()
        scores = session.score(Request.tokens(prefix, candidates))
    assert [one["scores"] for one in answers] == [scores.to_dict()["scores"]] * 2
    assert "user" not in answers[0] and "known" not in answers[0]
    assert sorted(one["stats"]["prefix_tokens_reused"] for one in answers) == [0, 3], "a prefix stays in one session"


@pytest.mark.parametrize(
    ("line", "status", "expected"),
    [
        ("{", "REXIT_INVALID_ARGUMENT", "line 1: not valid JSON: "),
        ('{"user": 100, "items": [4]}', "REXIT_UNKNOWN_ITEM", "line 1: items[0]: item 4 is not in the catalog"),
        ('{"id": "a", "user": 100, "items": [4]}', "REXIT_UNKNOWN_ITEM", "items[0]: item 4 is not in the catalog"),
        ('{"items": [4], "user": 100, "id": 7}', "REXIT_UNKNOWN_ITEM", "items[0]: item 4 is not in the catalog"),
        ('{"id": 18446744073709551617, "user": 100, "items": [4]}', "REXIT_UNKNOWN_ITEM", "items[0]: item 4 is not in"),
        ('{"user": 100, "items": [3], "deadline_ms": 0.001}', "REXIT_DEADLINE", "line 1: the deadline passed"),
        ('"' + "x" * (1 << 20) + '"', "REXIT_INVALID_ARGUMENT", "line 1: longer than 1048576 bytes"),
    ],
)
def test_a_bad_line_gives_an_error_and_the_next_is_answered(bundle: Path, line: str, status: str, expected: str) -> None:
    """tests/refusals has what is refused."""
    bad, good = served(bundle, [line, "", {"id": 2, "user": 100, "items": [3]}])
    assert bad["error"]["status"] == status
    assert bad["error"]["message"].startswith(expected) and "\n" not in bad["error"]["message"]
    assert ("id" in bad) != expected.startswith("line 1: "), "one or the other says which request it is"
    assert "id" not in bad or bad["id"] == json.loads(line)["id"]
    assert good["id"] == 2 and len(good["scores"]) == 1


def test_bytes_that_are_not_text(bundle: Path) -> None:
    ended = run_program("pipe", bundle, stdin=b'{"user": "\xff"}\n\0\n{"id": "\xc3\xa9", "user": 100, "items": [3]}')
    answers = [json.loads(line) for line in ended.out.splitlines()]
    assert ended.code == 0 and ["error" in one for one in answers] == [True, True, False]
    assert answers[2]["id"] == "é", "also a last line without its end"


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


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once(bundle: Path, second: signal.Signals) -> None:
    requests = [{"id": n, "user": 100, "items": ITEM_IDS} for n in range(100)]
    with subprocess.Popen([PROGRAM, "pipe", bundle], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment()) as process:
        assert process.stdin is not None and process.stdout is not None
        fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, 4096)
        process.stdin.write(lines(requests).encode())
        process.stdin.flush()
        process.stdout.read(1)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        assert process.poll() is None, "nobody reads its answers"
        process.send_signal(second)
        assert process.wait(30) == -second


def test_a_signal_lets_it_answer_the_lines_that_it_has_read(bundle: Path) -> None:
    requests = [{"id": n, "user": USER_IDS[n % len(USER_IDS)], "items": ITEM_IDS} for n in range(150)]
    with subprocess.Popen([PROGRAM, "pipe", bundle], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment()) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(lines(requests).encode() + b'{"id": "half a line"')  # less than a pipe holds, before it reads
        process.stdin.flush()
        first = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGTERM)
        answers = [first, *map(json.loads, process.stdout)]
        assert process.wait(30) == 0
    assert [answer["id"] for answer in answers] == list(range(150))


@pytest.mark.medium
def test_the_time_in_its_buffer_counts(bundle: Path) -> None:
    """All lines are read at once; the last waits for all others."""
    requests = [{"id": n, "user": USER_IDS[n % len(USER_IDS)], "items": ITEM_IDS} for n in range(150)]
    stats = [answer["stats"] for answer in served(bundle, requests)]
    assert stats[-1]["queue_us"] > 0.7 * sum(row["total_us"] for row in stats[:-1])
    late = served(bundle, [{**request, "deadline_ms": stats[-1]["queue_us"] / 3000} for request in requests])
    assert late[-1]["error"]["status"] == "REXIT_DEADLINE" and "scores" in late[0]


def test_a_stdout_that_does_not_block(bundle: Path) -> None:
    requests = [{"id": n, "user": 100, "items": ITEM_IDS} for n in range(50)]
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(write, False)
    with subprocess.Popen([PROGRAM, "pipe", bundle], stdin=subprocess.PIPE, stdout=write, env=environment()) as process:
        os.close(write)
        assert process.stdin is not None
        process.stdin.write(lines(requests).encode())
        process.stdin.close()
        time.sleep(1)  # the pipe is full
        with os.fdopen(read) as answers:
            assert [json.loads(line)["id"] for line in answers] == list(range(50))
        assert process.wait(30) == 0


def test_stdin_that_is_closed(bundle: Path) -> None:
    command = ["sh", "-c", 'exec "$0" pipe "$1" <&-', PROGRAM, bundle]
    ended = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "rexit-run: error: stdin: cannot be read: Bad file descriptor\n"


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


def test_requests_without_a_prefix_use_all_sessions(tmp_path: Path) -> None:
    """Texts, and token ids without a prefix: no session has anything of theirs. One busy session would answer in order."""
    texts = write_pairs(tmp_path / "bundle", bert(["wing", "drag", "##s"]), Pair(tokens=24, vocabulary=20))
    long, short = ["drags wing " * 8] * 9_000, ["wing"]
    for many, few in (
        ({"query": "wing", "documents": long}, {"query": "wing", "documents": short}),
        ({"candidates": [[1, 2, 3] * 5] * 9_000}, {"candidates": [[1]]}),
    ):
        answers = served(texts, [many | {"id": "long"}, few | {"id": "short"}], "--sessions", 2, "--threads", 1)
        assert [one["id"] for one in answers] == ["short", "long"]
