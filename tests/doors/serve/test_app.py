"""`rexit serve` over a real socket and a real bundle: scores, refusals, deadlines, metrics, reloading."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from builders.bundles.bundle import BundleOptions, write_bundle
from builders.bundles.bundle_files import write_policy
from builders.bundles.catalog import ITEM_IDS, make_catalog
from builders.bundles.held_out import write_ranked
from builders.bundles.zero import with_numbers
from rexit import Request, runtime
from rexit.doors.pool import Pool, ScoreJob
from rexit.doors.serve import Limits, app
from rexit.errors import BackendError, BundleError
from rexit.format.bundle import Bundle, ExitPolicy, Policy
from rexit.format.request import MAX_CANDIDATES
from running.service import Service, serving


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ranked(tmp_path_factory.mktemp("served")).bundle


@pytest.fixture(scope="module")
def service(bundle: Path) -> Iterator[Service]:
    with serving(Pool(partial(runtime.open, bundle), 2, 4), Limits(max_body=1 << 16)) as service:
        yield service


class Gate:
    """Scoring waits until the gate is opened. `waited_us`: how long requests had waited for a session."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened, self.reached = threading.Event(), threading.Semaphore(0)
        self.waited_us: list[int] = []
        real = runtime.Session.score_json

        def score_json(session: runtime.Session, body: bytes, **options: Any) -> Any:
            self.waited_us.append(options["waited_us"])
            self.reached.release()
            assert self.opened.wait(30)
            return real(session, body, **options)

        monkeypatch.setattr(runtime.Session, "score_json", score_json)


def test_scores_are_the_runtimes(service: Service, bundle: Path) -> None:
    items = [int(item) for item in ITEM_IDS]
    recent = [items[3], [items[4], False]]
    reply = service.score(user=100, items=items, recent=recent, as_of=50, top_k=5)
    assert reply.status == 200
    with runtime.open(bundle) as session:
        expected = session.score(100, items, recent=[(items[3], True), (items[4], False)], as_of=50, top_k=5)
    rows = reply.json["scores"]
    assert [row["item"] for row in rows] == expected.items.tolist()
    assert [row["log_odds"] for row in rows] == pytest.approx(expected.log_odds.tolist(), abs=1e-5)
    assert [row["exit"] for row in rows] == expected.exit.tolist() and not any(row["cut_short"] for row in rows)
    assert reply.json["user"] == 100 and reply.json["variant"] == "cpu-fp32"
    assert reply.json["stats"]["candidate_layers"] == expected.stats.candidate_layers and reply.json["stats"]["queue_us"] >= 0


@pytest.mark.parametrize("field", ["items", "recent", "candidates", "documents"])
def test_a_service_limits_the_length_of_lists(service: Service, field: str) -> None:
    reply = service.score(**{"user": 100, "items": [3], field: [3] * 10_001})
    assert (reply.status, reply.json) == (422, {"error": f"{field} has 10001 entries, expected at most 10000"})
    reply = service.score(user=100, retrieve=10_001)
    assert (reply.status, reply.json) == (422, {"error": "retrieve is 10001, expected at most 10000"})


def test_the_guide_names_the_limits() -> None:
    page = Path(__file__).parents[3] / "docs/how-to/serve.md"
    assert f"**Limits**: {MAX_CANDIDATES:,} candidates, documents" in page.read_text() and Limits().max_body == 1 << 20


def test_a_prompt_as_token_ids(service: Service, bundle: Path) -> None:
    reply = service.score(prefix=[3, 4, 5], candidates=[[6], [7, 8]])
    with runtime.open(bundle) as session:
        expected = session.score(Request.tokens([3, 4, 5], [[6], [7, 8]])).log_odds.tolist()
    assert [row["log_odds"] for row in reply.json["scores"]] == pytest.approx(expected, abs=1e-5)
    assert "user" not in reply.json and "known" not in reply.json
    assert "rexit_unknown_users_total 0.0" in service.get("/metrics").text


@pytest.mark.parametrize("path", ["/v1/score", "/v1/rerank"])
@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain", None])
def test_a_body_without_a_json_header_is_told_so(service: Service, path: str, kind: str | None) -> None:
    reply = service.ask("POST", path, b'{"user": 100, "items": [3]}', kind)
    got = "missing" if kind is None else f"got '{kind}'"
    assert (reply.status, reply.json) == (422, {"error": f"Content-Type: {got}, expected application/json"})


@pytest.mark.parametrize("top_k", [0, 1])
def test_candidates_are_counted_whether_they_are_in_the_answer_or_not(tmp_path: Path, top_k: int) -> None:
    path, items = write_ranked(tmp_path).bundle, [int(item) for item in ITEM_IDS]
    with runtime.open(path) as session:
        first = np.sort(session.trace(100, items)[:, 0])
    bundle = Bundle.open(path)
    policy = Policy((ExitPolicy(upper=float(first[-4])), ExitPolicy(), ExitPolicy()), 1, bundle.variant_sha256)
    policy.write(bundle.folder / "policy.json")
    with serving(Pool(partial(runtime.open, path), 1, 0)) as service:
        exits = [row["exit"] for row in service.score(user=100, items=items).json["scores"]]
        assert set(exits) == {0, 2}
        service.score(user=100, items=items, top_k=top_k)
        metrics = service.get("/metrics").text
    for k in set(exits):
        assert f'rexit_candidates_total{{exit="{k}"}} {2.0 * exits.count(k)}' in metrics
    assert metrics.count("rexit_candidates_total{") == len(set(exits))


def test_candidates_that_exit_zero_stops_are_counted_as_its_own(tmp_path: Path) -> None:
    path, items = write_bundle(tmp_path, BundleOptions(with_numbers(make_catalog()))), [int(item) for item in ITEM_IDS]
    rule = {"a": 1.0, "b": 0.0, "upper": None, "lower": None}
    write_policy(path, [{**rule, "keep": 3}, rule, rule, rule])
    with serving(Pool(partial(runtime.open, path), 1, 0)) as service:
        exits = [row["exit"] for row in service.score(user=100, items=items).json["scores"]]
        metrics = service.get("/metrics").text
    assert set(exits) == {0, 3} and exits.count(3) >= 3  # more where several tie for the third place
    for k in (0, 3):
        assert f'rexit_candidates_total{{exit="{k}"}} {exits.count(k):.1f}' in metrics
    assert metrics.count("rexit_candidates_total{") == 2


@pytest.mark.parametrize("size", [70_000, 20_000_000])
def test_a_large_body_is_refused(service: Service, size: int) -> None:
    """The client sends all of it before it reads the answer."""
    reply = service.ask("POST", "/v1/score", b" " * size)
    assert (reply.status, reply.json["error"]) == (413, "body: got more than 65536 bytes, expected at most that")


@pytest.mark.parametrize(
    ("headers", "answer"),
    [
        ("Content-Length: 9", b"408 "),  # of which 3 arrive
        ("Content-Length: 70000\r\nExpect: 100-continue", b"413 "),
    ],
)
def test_a_body_is_not_awaited_for_long(service: Service, monkeypatch: pytest.MonkeyPatch, headers: str, answer: bytes) -> None:
    monkeypatch.setattr(app, "_BODY_S", 0.3 if answer == b"408 " else 30)
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as client:
        client.sendall(f"POST /v1/score HTTP/1.1\r\nHost: x\r\n{headers}\r\n\r\n".encode())
        if answer == b"408 ":
            client.sendall(b"{  ")
        assert client.recv(1000).startswith(b"HTTP/1.1 " + answer)


@pytest.mark.parametrize(
    ("method", "path", "status", "line"),
    [
        ("POST", "/v1/score/", 404, "/v1/score/: not found, expected a route of /openapi.json"),
        ("POST", "/v1/scores", 404, "/v1/scores: not found, expected a route of /openapi.json"),
        ("GET", "/v1/score", 405, "/v1/score: method not allowed, got GET, expected POST"),
    ],
)
def test_what_is_no_route_is_one_line(service: Service, method: str, path: str, status: int, line: str) -> None:
    reply = service.ask(method, path)
    assert (reply.status, reply.json) == (status, {"error": line})


def test_every_answer_is_counted_by_its_status(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = runtime.Session.score_json

    def score_json(session: runtime.Session, body: bytes, **options: Any) -> Any:
        if b"101" in body:
            raise ZeroDivisionError("a defect")
        return real(session, body, **options)

    monkeypatch.setattr(runtime.Session, "score_json", score_json)
    with serving(Pool(partial(runtime.open, bundle), 1, 0), Limits(max_body=100)) as service:
        bodies = {200: b'{"user": 100, "items": [3]}', 413: b" " * 200, 422: b"\xff", 500: b'{"user": 101, "items": [3]}'}
        for status, body in bodies.items():
            reply = service.ask("POST", "/v1/score", body)
            assert reply.status == status and (status == 200 or list(reply.json) == ["error"]), reply.text
        assert (service.ask("GET", "/v1/score").status, service.ask("POST", "/score").status) == (405, 404)
        counted = [line for line in service.get("/metrics").text.splitlines() if line.startswith("rexit_requests_total")]
        assert counted == [f'rexit_requests_total{{status="{status}"}} 1.0' for status in (200, 413, 422, 500, 405, 404)]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (BackendError("the device is gone"), "the device is gone"),
        (ZeroDivisionError("a defect"), "internal error: ZeroDivisionError; the service's log has more"),
    ],
)
def test_a_failure_is_one_line_for_the_client_and_a_defect_a_traceback_in_the_log(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception, line: str
) -> None:
    def score_json(self: runtime.Session, *words: Any, **options: Any) -> Any:
        raise error

    monkeypatch.setattr(runtime.Session, "score_json", score_json)
    with serving(Pool(partial(runtime.open, bundle), 1, 0)) as service:
        for _ in range(2):
            reply = service.score(user=100, items=[3])
            assert (reply.status, reply.json) == (500, {"error": line})
    logged = [record.exc_info[0] for record in caplog.records if record.name == "rexit" and record.exc_info is not None]
    assert logged == ([] if isinstance(error, BackendError) else [ZeroDivisionError] * 2)


@pytest.mark.medium
@pytest.mark.parametrize(
    ("changes", "unlike"),
    [
        ({}, []),
        ({"candidates": [1, 2, 3, 19]}, ["candidates"]),
        ({"prefix_tokens": [0, 0, 0, 1]}, ["prefix_tokens"]),
        ({"candidate_tokens": [0, 0, 0, 99]}, ["candidate_tokens"]),
        ({"candidate_tokens": [98, 99, 99, 99]}, ["candidate_tokens"]),
    ],
)
def test_requests_unlike_the_calibration(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, changes: dict[str, list[int]], unlike: list[str]
) -> None:
    path, items = write_ranked(tmp_path).bundle, [int(item) for item in ITEM_IDS]
    bundle = Bundle.open(path)
    requests = {name: [0, 50, 99, 99] for name in ("candidates", "prefix_tokens", "candidate_tokens")} | changes
    made_on = {"device": "cpu", "threads": 1, "machine": {}, "slate": 99, "requests": requests}
    Policy((ExitPolicy(),) * 3, 1, bundle.variant_sha256, made_on=made_on).write(bundle.folder / "policy.json")
    with serving(Pool(partial(runtime.open, path), 1, 0)) as service:
        for _ in range(12):
            assert service.score(user=100, items=items).status == 200
        counted = re.findall(r'rexit_requests_unlike_total{of="(\w+)"} 12.0', service.get("/metrics").text)
    said = [line for record in caplog.records if "requests are unlike" in (line := record.getMessage())]
    assert counted == unlike and len(said) == len(unlike)
    assert all(
        line.startswith(f"10 of 10 requests are unlike those that calibrated the policy, for instance {unlike[0]} ")
        for line in said
    )


def test_a_user_whom_the_catalog_does_not_have(bundle: Path) -> None:
    with serving(Pool(partial(runtime.open, bundle), 1, 0)) as service:
        assert [service.score(user=user, items=[3]).json["known"] for user in (100, 5, 5)] == [True, False, False]
        assert "rexit_unknown_users_total 2.0" in service.get("/metrics").text


def test_deadline_before_the_first_exit(service: Service) -> None:
    reply = service.score(user=100, items=[3], deadline_ms=0.001)
    assert reply.status == 504 and "deadline" in reply.json["error"]


def test_health_and_description(service: Service) -> None:
    assert (service.get("/healthz").status, service.get("/readyz").status) == (200, 200)
    description = service.get("/openapi.json").json
    schemas, route = description["components"]["schemas"], description["paths"]["/v1/score"]["post"]
    assert list(schemas["ScoreRequest"]["properties"]) == list(Request.__struct_fields__)
    assert all(field["description"] for field in schemas["ScoreRequest"]["properties"].values())
    assert {"200", "413", "422", "503", "504"} <= route["responses"].keys()
    for name in re.findall(r"#/components/schemas/(\w+)", json.dumps(description)):
        assert name in schemas


def test_a_full_queue_refuses_and_serves_the_rest(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    with serving(Pool(partial(runtime.open, bundle), 1, 1)) as service, ThreadPoolExecutor(2) as clients:
        running = clients.submit(service.score, user=100, items=[3])
        gate.reached.acquire()
        waiting = clients.submit(service.score, user=100, items=[8])
        while "rexit_queue_depth 1.0" not in service.get("/metrics").text:
            time.sleep(0.01)
        refused = service.score(user=100, items=[3])
        assert refused.status == 503 and int(refused.headers["retry-after"]) >= 1
        assert refused.json["error"] == "1 requests are waiting, expected fewer than 1: try again"
        gate.opened.set()
        assert (running.result().status, waiting.result().status) == (200, 200)
        metrics = service.get("/metrics").text
        assert 'rexit_refusals_total{reason="full"} 1.0' in metrics
        assert 'rexit_requests_total{status="200"} 2.0' in metrics and 'rexit_requests_total{status="503"} 1.0' in metrics
        assert 'rexit_candidates_total{exit="2"} 2.0' in metrics and "rexit_request_seconds_count 2.0" in metrics
        reused = next(line for line in metrics.splitlines() if line.startswith("rexit_prefix_tokens_reused_total"))
        assert float(reused.split()[1]) > 0, "the second request is the same user's"


def test_the_queue_counts_against_the_deadline(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    with serving(Pool(partial(runtime.open, bundle), 1, 4)) as service, ThreadPoolExecutor(2) as clients:
        running = clients.submit(service.score, user=100, items=[3])
        gate.reached.acquire()
        patient = clients.submit(service.score, user=100, items=[8], deadline_ms=60_000)
        late = service.score(user=100, items=[3], deadline_ms=200)
        assert late.status == 504
        assert late.json["error"] == "the deadline of 200 ms passed in the queue, before scoring began"
        gate.opened.set()
        assert (running.result().status, patient.result().status) == (200, 200)
        assert len(gate.waited_us) == 2, "what was late never reached a session"
        assert gate.waited_us[1] > 150_000, "its deadline counts from its arrival"
        assert 'rexit_refusals_total{reason="deadline"} 1.0' in service.get("/metrics").text


def test_a_late_request_leaves_the_queue(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    with serving(Pool(partial(runtime.open, bundle), 1, 1)) as service, ThreadPoolExecutor(2) as clients:
        running = clients.submit(service.score, user=100, items=[3])
        gate.reached.acquire()
        assert service.score(user=100, items=[3], deadline_ms=1).status == 504
        assert "rexit_queue_depth 0.0" in service.get("/metrics").text
        accepted = clients.submit(service.score, user=100, items=[8])
        while "rexit_queue_depth 1.0" not in service.get("/metrics").text:
            assert not accepted.done(), "refused, though nobody who is still served waits before it"
            time.sleep(0.01)
        gate.opened.set()
        assert (running.result().status, accepted.result().status) == (200, 200)


def changed(answer: Any, **changes: Any) -> SimpleNamespace:
    """The attributes of an answer of the library, some of them changed."""
    return SimpleNamespace(**{name: getattr(answer, name) for name in dir(answer) if name[0] != "_"} | changes)


def test_what_a_deadline_cut_short_is_counted(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = runtime.Session.score_json

    def score_json(session: runtime.Session, body: bytes, **options: Any) -> Any:
        answer = real(session, body, **options)
        segments = tuple(changed(segment, candidates=1) for segment in answer.stats.segments)
        return changed(answer, stats=changed(answer.stats, cut_short=2, segments=segments))

    monkeypatch.setattr(runtime.Session, "score_json", score_json)
    with serving(Pool(partial(runtime.open, bundle), 1, 0)) as service:
        service.score(user=100, items=[3, 8], deadline_ms=1e6)
        metrics = service.get("/metrics").text
    assert 'rexit_candidates_total{exit="none"} 1.0' in metrics and "rexit_candidates_cut_short_total 2.0" in metrics


def test_a_service_whose_session_has_ended_is_not_ready(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wait(pool: Pool, *words: Any) -> None:
        while pool.waiting == 0 and pool.ended == 0:
            pool._turn.wait(0.01)
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(Pool, "_wait", wait)
    with serving(Pool(partial(runtime.open, bundle), 2, 4)) as service:
        reply = service.score(user=100, items=[3])
        assert reply.status == 500 and reply.json["error"].startswith("all sessions have ended, which is a defect")
        assert service.score(user=100, items=[3]).status == 503
        assert service.get("/health").status == 503
        reply = service.get("/readyz")
    assert reply.status == 503 and reply.json["error"].startswith("2 sessions have ended, which is a defect")


def stopping_at_once(bundle: Bundle) -> Policy:
    return Policy((ExitPolicy(upper=-1e9), ExitPolicy(), ExitPolicy()), 1, bundle.variant_sha256)


def test_reload_swaps_and_lets_the_running_finish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_ranked(tmp_path).bundle
    gate = Gate(monkeypatch)
    pool = Pool(partial(runtime.open, path), 1, 4)
    with serving(pool) as service, ThreadPoolExecutor(2) as clients:
        before = clients.submit(service.score, user=100, items=[3])
        gate.reached.acquire()
        bundle = Bundle.open(path)
        stopping_at_once(bundle).write(bundle.folder / "policy.json")
        pool.reload()
        gate.opened.set()
        assert before.result().json["scores"][0]["exit"] == 2
        assert service.score(user=100, items=[3]).json["scores"][0]["exit"] == 0
        (path / "manifest.json").unlink()
        with pytest.raises(BundleError):
            pool.reload()
        assert service.score(user=100, items=[3]).json["scores"][0]["exit"] == 0


def test_requests_are_accepted_while_a_session_closes(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(partial(runtime.open, bundle), 1, 4)
    real = runtime.Session.close
    closing, accepted = threading.Event(), threading.Event()

    def close(session: runtime.Session) -> None:
        closing.set()
        assert accepted.wait(10), "a request waits for the lock until the session is closed"
        real(session)

    monkeypatch.setattr(runtime.Session, "close", close)
    pool.reload()
    assert closing.wait(30)
    job = ScoreJob(body=b'{"user": 100, "items": [3]}')
    pool.submit(job)
    accepted.set()
    assert job.future.result(30).stats.candidates == 1
    pool.close()


def test_the_end_waits_for_threads_as_long_as_it_is_told(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    pool = Pool(partial(runtime.open, bundle), 2, 4)
    job = ScoreJob(body=b'{"user": 100, "items": [3]}')
    pool.submit(job)
    gate.reached.acquire()
    assert not pool.close(within_s=0.05)
    gate.opened.set()
    assert pool.close(within_s=30) and job.future.result(0).stats.candidates == 1


def test_stopping_finishes_what_is_accepted(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    pool = Pool(partial(runtime.open, bundle), 1, 4)
    with serving(pool) as service, ThreadPoolExecutor(2) as clients:
        accepted = [clients.submit(service.score, user=100, items=[3]) for _ in range(2)]
        gate.reached.acquire()
        while pool.waiting == 0:
            time.sleep(0.01)
        pool.refuse()
        assert service.get("/readyz").status == 503
        assert service.score(user=100, items=[3]).json["error"].startswith("the service is stopping")
        gate.opened.set()
        assert [request.result().status for request in accepted] == [200, 200]
