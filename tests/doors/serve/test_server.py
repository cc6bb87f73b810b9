"""`rexit serve` as a process: what signals do, and what cannot be served."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from builders.bundles.held_out import write_ranked
from rexit import runtime
from rexit.doors.cli.use.serve import threads_for
from rexit.doors.serve.server import listen
from running.command import Ended, Run, run  # noqa: F401
from running.service import Service

SLOW = """
import sys, time
from rexit import runtime
real = runtime.Session.score_json
def score_json(self, *words, **options):
    time.sleep(1)
    return real(self, *words, **options)
runtime.Session.score_json = score_json
sys.argv = ["rexit", "serve", *sys.argv[1:]]
from rexit.doors.cli import main
main()
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ranked(tmp_path_factory.mktemp("served")).bundle


@pytest.fixture
def slow(bundle: Path) -> Iterator[subprocess.Popen[str]]:
    """Every request takes a second."""
    words = [sys.executable, "-c", SLOW, str(bundle), "--port", "0"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    return process.stderr.readline()


@pytest.mark.parametrize(("sessions", "threads"), [(1, 8), (2, 7), (8, 1), (64, 1)])
def test_all_sessions_at_once_have_a_thread_for_each_core(monkeypatch: pytest.MonkeyPatch, sessions: int, threads: int) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(8)))
    assert threads_for(sessions) == threads


def test_sigterm_finishes_what_runs_and_exits_with_0(slow: subprocess.Popen[str]) -> None:
    service = Service(int(line(slow).rsplit(":", 1)[1]))
    with ThreadPoolExecutor(1) as clients:
        running = clients.submit(service.score, user=100, items=[3])
        while "rexit_sessions_busy 1.0" not in service.get("/metrics").text:
            pass
        slow.send_signal(signal.SIGTERM)
        assert line(slow) == "rexit: stopping: 1 requests running, 0 waiting; new ones are refused\n"
        assert running.result().status == 200
    assert slow.wait(30) == 0 and slow.stderr is not None and slow.stderr.read() == ""
    with pytest.raises(ConnectionRefusedError):
        service.get("/healthz")


@pytest.mark.slow
def test_sighup_opens_the_bundle_again(slow: subprocess.Popen[str], bundle: Path) -> None:
    service = Service(int(line(slow).rsplit(":", 1)[1]))
    slow.send_signal(signal.SIGHUP)
    assert line(slow) == "rexit: opened the bundle again: cpu-fp32\n"
    manifest = bundle / "manifest.json"
    kept = manifest.rename(bundle / "kept")
    slow.send_signal(signal.SIGHUP)
    assert "manifest.json" in (reply := line(slow)) and reply.endswith("; serving goes on with the bundle opened before\n")
    kept.rename(manifest)
    assert service.score(user=100, items=[3]).status == 200
    metrics = service.get("/metrics").text
    assert 'rexit_reloads_total{result="ok"} 1.0' in metrics and 'rexit_reloads_total{result="failed"} 1.0' in metrics
    slow.send_signal(signal.SIGINT)
    assert slow.wait(30) == 0


HUNG_UP = """
import os, signal, sys
from rexit import runtime
real, opened = runtime.open, []
def open(*words, **options):
    opened.append(words)
    if len(opened) == 1:
        os.kill(os.getpid(), signal.SIGHUP)
    if len(opened) == 2:
        raise ZeroDivisionError("a defect")
    return real(*words, **options)
runtime.open = open
sys.argv = ["rexit", "serve", *sys.argv[1:]]
from rexit.doors.cli import main
main()
"""


@pytest.mark.medium
def test_a_sighup_before_the_service_is_ready_and_a_defect_in_a_reload(bundle: Path) -> None:
    words = [sys.executable, "-c", HUNG_UP, str(bundle), "--port", "0"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        service = Service(int(line(process).rsplit(":", 1)[1]))
        while not (reply := line(process)).startswith("rexit: "):
            assert reply, "the service has ended"
        assert reply == "rexit: error: a defect; serving goes on with the bundle opened before\n"
        assert 'rexit_reloads_total{result="failed"} 1.0' in service.get("/metrics").text
        process.send_signal(signal.SIGHUP)
        assert line(process) == "rexit: opened the bundle again: cpu-fp32\n"
        process.send_signal(signal.SIGTERM)
        assert line(process).startswith("rexit: stopping") and process.wait(30) == 0


def test_what_cannot_be_served_is_one_line(run: Run, bundle: Path) -> None:  # noqa: F811
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        for words, code, line in (
            ((bundle, "--port", port), 2, f"127.0.0.1:{port}: cannot listen: Address already in use"),
            ((bundle, "--deadline-ms", "nan"), 2, "deadline_ms is nan, expected a number above 0 and at most 1e12"),
            ((bundle / "none",), 4, f"{bundle / 'none' / 'manifest.json'}: cannot be opened: No such file or directory"),
        ):
            assert run("serve", *words) == Ended(code, "", f"rexit: error: {line}\n")


def test_an_answer_does_not_wait_to_be_acknowledged() -> None:
    with listen("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_options_reach_the_sessions(run: Run, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    opened_with: list[dict[str, Any]] = []
    real, hung_up = runtime.open, signal.getsignal(signal.SIGHUP)

    def opened(path: Path, variant: str | None, **options: Any) -> runtime.Session:
        opened_with.append(options)
        return real(path, variant)

    monkeypatch.setattr(runtime, "open", opened)
    monkeypatch.setattr("rexit.doors.serve.run", lambda app, pool, *_: pool.close())
    try:
        ended = run("serve", bundle, "--port", 0, "--sessions", 2, "--threads", 3, "--cache-mib", 5)
    finally:
        signal.signal(signal.SIGHUP, hung_up)
    assert ended.code == 0, ended.err
    assert opened_with and all(options == {"threads": 3, "cache_bytes": 5 << 20} for options in opened_with)
