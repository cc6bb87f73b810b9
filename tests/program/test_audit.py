"""`rexit-run pipe --audit`: a program without Python writes audited slates, and `rexit audit` raises the alarm."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest

from builders.bundles.catalog import ITEM_IDS, USER_IDS
from builders.bundles.watched import write_watched
from rexit import runtime
from rexit.audit import AuditLog, read_limits, read_log
from rexit.bundle import Bundle
from running.command import Run
from running.program import PROGRAM, assert_one_error, environment, run_program

ITEMS = [int(item) for item in ITEM_IDS]


@pytest.fixture
def watched(bundle: Path, tmp_path: Path) -> Bundle:
    return write_watched(Path(shutil.copytree(bundle, tmp_path / "bundle")), (0.01,))


def test_an_audited_slate_is_what_full_depth_says(watched: Bundle, tmp_path: Path) -> None:
    log = tmp_path / "audit.jsonl"
    line = json.dumps({"id": 1, "user": 100, "items": ITEMS, "top_k": 2})
    ended = run_program("pipe", watched.path, "--audit", 1, "--audit-log", log, stdin=line + "\n")
    assert ended.code == 0 and "error" not in ended.out, ended.err
    (slate,) = read_log(log)
    with runtime.open(watched.path) as session:
        session.warm_up()  # as the program does
        policy, full = session.score(100, ITEMS), session.score(100, ITEMS, force_exit=2)
    assert (slate.user, slate.items, slate.rule) == (100, ITEMS, 0) and slate.exits == policy.exit.tolist()
    assert np.array(slate.policy, np.float32).tolist() == policy.log_odds.tolist()
    assert np.array(slate.log_odds, np.float32).tolist() == full.log_odds.tolist(), "to the bit, through JSON"
    assert slate.policy_sha256 == watched.policy_sha256 and log.stat().st_mode & 0o77 == 0


def test_a_prompt_as_token_ids_is_known_by_its_prefix(watched: Bundle, tmp_path: Path) -> None:
    log = tmp_path / "audit.jsonl"
    for prefix in ([3, 4], [3, 4], [5]):
        line = json.dumps({"prefix": prefix, "candidates": [[6], [7, 8]]})
        assert run_program("pipe", watched.path, "--audit", 1, "--audit-log", log, stdin=line).code == 0
    slates = list(read_log(log))
    assert [slate.items for slate in slates] == [[0, 1]] * 3
    assert slates[0].user == slates[1].user != slates[2].user


def test_a_shift_raises_the_alarm(run: Run, watched: Bundle, tmp_path: Path) -> None:
    """The policy stops at the first exit, which ranks otherwise than full depth; a limit of 0.01 does not hold."""
    log = tmp_path / "audit.jsonl"
    log.write_text('{"time": 1')  # left by a killed service
    process = subprocess.Popen(
        [PROGRAM, "pipe", watched.path, "--audit", "1", "--audit-log", log],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert process.stdin is not None and process.stdout is not None
    with process:
        for user in USER_IDS:
            process.stdin.write(json.dumps({"user": int(user), "items": ITEMS}) + "\n")
            process.stdin.flush()
            assert "scores" in process.stdout.readline()
        process.stdin.close()
        assert process.wait(60) == 0
    slates = list(read_log(log))
    assert 1 <= len(slates) <= len(USER_IDS), "some were skipped or interrupted if requests came fast"
    assert len({slate.user for slate in slates}) == len(slates)
    service = AuditLog(log)  # a day later, and so on: users count again
    for day in range(1, 6):
        for slate in slates:
            service.write(type(slate)(**{**vars(slate), "time": slate.time + 86400.0 * day}))
    service.close()
    ended = run("audit", watched.path, log, "--json")
    assert ended.code == 0, ended.err
    assert ended.json["alarm"] and ended.json["rules"][0]["mean"] > 0.01 and ended.json["rules"][0]["capital"] >= 20
    assert read_limits(watched).loss_of(slates[0]) > 0


def test_a_full_disk_leaves_whole_lines(watched: Bundle, tmp_path: Path) -> None:
    """A limit of the file's size does what a full disk does: it takes a part of a line, then refuses."""
    log, lines = tmp_path / "audit.jsonl", json.dumps({"user": 100, "items": ITEMS}) + "\n"
    words = ("pipe", str(watched.path), "--audit", "1", "--audit-log", str(log))
    assert run_program(*words, stdin=lines).code == 0
    kept, size = log.read_bytes(), log.stat().st_size

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 40, size + 40))

    command = [PROGRAM, *words]
    ended = subprocess.run(command, input=lines, capture_output=True, text=True, env=environment(), preexec_fn=limit)
    assert "audit.jsonl: an audited slate is not in it: File too large" in ended.stderr
    assert log.read_bytes() == kept and len(list(read_log(log))) == 1


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--audit", "1.5"), "--audit is 1.5, expected a share from 0 to 1"),
        (("--audit", "nan"), "--audit is nan, expected a share from 0 to 1"),
        (("--audit", "1"), "--audit without --audit-log, expected a file for the audited slates"),
        (("--audit-log", "log.jsonl"), "--audit-log is for --audit, expected a share above 0"),
        (("--audit", "1", "--audit-log", "no/where.jsonl"), "no/where.jsonl: cannot be written: No such file or directory"),
    ],
)
def test_bad_options_are_one_line(bundle: Path, words: tuple[str, ...], line: str) -> None:
    assert_one_error(run_program("pipe", bundle, *words, stdin=""), 2, line)


def test_a_bundle_without_a_policy_and_a_log_that_is_taken_are_refused(bundle: Path, string_bundle: Path, tmp_path: Path) -> None:
    log = tmp_path / "audit.jsonl"
    words = ("--audit", 1, "--audit-log", log)
    assert_one_error(run_program("pipe", string_bundle, *words, stdin=""), 2, "has no policy to audit, expected one")
    service = AuditLog(log)
    assert_one_error(run_program("pipe", bundle, *words, stdin=""), 2, "another service writes it, expected a file of its own")
    service.close()
