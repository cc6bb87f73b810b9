"""`rexit serve --audit` on a real bundle: what is traced, what is counted, and what an alarm changes."""

from __future__ import annotations

import json
import logging
import re
import shutil
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from builders.bundles.catalog import ITEM_IDS, USER_IDS
from builders.bundles.held_out import write_ranked
from builders.bundles.reranker import write_reranker
from builders.bundles.watched import write_watched
from rexit import runtime
from rexit.doors.cli import app
from rexit.doors.pool import Auditor, Job, Pool, ScoreJob, auditor
from rexit.doors.pool.auditor import SessionAudits
from rexit.doors.serve.requests import RerankRequest
from rexit.errors import CancelledError, InputError
from rexit.format.bundle import TopK
from rexit.upkeep.audit import Audit, Watch, read_log
from rexit.upkeep.audit.betting import Tail
from running.service import serving

ITEMS = [int(item) for item in ITEM_IDS]
USERS = [int(user) for user in USER_IDS]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ranked(tmp_path_factory.mktemp("served")).bundle


@pytest.fixture
def bundle(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "bundle"))


@pytest.fixture(autouse=True)
def without_a_bound_on_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auditor, "MAX_TIME_SHARE", 1e9)


class Audited:
    """A service with audits. options: `Auditor`'s."""

    def __init__(self, bundle: Path, share: float = 1.0, *, sessions: int = 1, **options: Any) -> None:
        self.auditor = Auditor(bundle, None, share, **options)
        self.pool = Pool(partial(runtime.open, bundle), sessions, 16, self.auditor)

    def __enter__(self) -> Audited:
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.close()

    @property
    def watch(self) -> Watch:
        return self.auditor.watch

    def submit(self, job: Job) -> Any:
        self.pool.submit(job)
        return json.loads(job.future.result(30).content)

    def ask(self, user: int, items: list[int] = ITEMS, **fields: Any) -> list[dict[str, Any]]:
        scores: list[dict[str, Any]] = self.submit(job_of(user, items, **fields))["scores"]
        return scores

    def ask_and_wait(self, user: int, **fields: Any) -> list[dict[str, Any]]:
        before, scores = self.watch.slates, self.ask(user, **fields)
        wait(lambda: self.watch.slates > before)
        return scores

    def logged(self, path: Path) -> list[Audit]:
        return list(read_log(path, self.watch.sha256, self.pool.info.exits))


def job_of(user: int, items: list[int] = ITEMS, **fields: Any) -> ScoreJob:
    return ScoreJob(body=json.dumps({"user": user, "items": items, **fields}).encode())


def exits(scores: list[dict[str, Any]]) -> set[int]:
    return {score["exit"] for score in scores}


def wait(done: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not done():
        assert time.monotonic() < until, "not within 30 seconds"
        time.sleep(0.002)


@pytest.mark.parametrize("fields", [{}, {"top_k": 4, "recent": [ITEMS[0], [ITEMS[1], False]], "as_of": 40}])
def test_an_answered_request_is_traced(bundle: Path, tmp_path: Path, fields: dict[str, Any]) -> None:
    write_watched(bundle, loss="top-k-overlap@4")
    with Audited(bundle, log=tmp_path / "audit.jsonl") as service:
        scores = service.ask_and_wait(USERS[0], **fields)
        mean = service.watch.test.mean
    (audit,) = service.logged(tmp_path / "audit.jsonl")
    assert audit.request == {"user": USERS[0], "items": ITEMS, **fields}
    with runtime.open(bundle) as session:
        recent: Any = [ITEMS[0], (ITEMS[1], False)] if fields else None
        full = session.score(USERS[0], ITEMS, force_exit=2, recent=recent, as_of=fields.get("as_of")).log_odds
    np.testing.assert_allclose(audit.log_odds[:, 2], full, atol=1e-5)
    for score in scores:
        assert score["exit"] == 0 and score["log_odds"] == pytest.approx(audit.log_odds[ITEMS.index(score["item"]), 0], abs=1e-5)
    best, answered = (set(np.argsort(-z)[:4].tolist()) for z in (full, audit.log_odds[:, 0]))
    assert mean == pytest.approx(1 - len(best & answered) / 4) and mean != 0


def test_an_audit_names_what_was_retrieved(bundle: Path, tmp_path: Path) -> None:
    """A later catalog may retrieve other items."""
    write_watched(bundle)
    with Audited(bundle, log=tmp_path / "audit.jsonl") as service:
        job = ScoreJob(body=json.dumps({"user": USERS[0], "retrieve": 12, "recent": [ITEMS[0], [ITEMS[1], False]]}).encode())
        items = [score["item"] for score in service.submit(job)["scores"]]
        wait(lambda: service.watch.slates > 0)
    (audit,) = service.logged(tmp_path / "audit.jsonl")
    assert audit.request == {"user": USERS[0], "recent": [ITEMS[0], [ITEMS[1], False]], "items": items}
    with runtime.open(bundle) as session:
        recent = [(ITEMS[0], True), (ITEMS[1], False)]
        np.testing.assert_allclose(audit.log_odds, session.trace(USERS[0], items, recent=recent), atol=1e-5)


def test_a_requests_own_top_k_is_not_the_policys(bundle: Path) -> None:
    """It says how many answers there are, not where candidates stop."""
    write_watched(bundle, top_k=TopK(6, True, (0.1, 0.1), (0.1, 0.1)))
    means, answers = [], []
    for top_k in (0, 1):
        with Audited(bundle) as service:
            answers.append({score["item"]: score["exit"] for score in service.ask_and_wait(USERS[0], top_k=top_k)})
            means.append(service.watch.test.mean)
    assert means[0] == means[1] and len(answers[1]) == 1 and answers[1].items() <= answers[0].items()


def test_an_audit_begins_after_the_answer(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job, done, real = job_of(USERS[0]), list[bool](), runtime.Session.trace_json

    def trace(session: runtime.Session, body: bytes) -> Any:
        done.append(job.future.done())
        return real(session, body)

    write_watched(bundle)
    monkeypatch.setattr(runtime.Session, "trace_json", trace)
    with Audited(bundle) as service:
        service.submit(job)
        wait(lambda: service.watch.slates == 1)
    assert done == [True]


def test_what_no_policy_stops_is_not_drawn(bundle: Path) -> None:
    write_watched(bundle)
    with Audited(bundle) as service:
        service.ask(USERS[0], force_exit=1)
        service.ask_and_wait(USERS[1])
        assert service.watch.slates == 1 and not service.auditor.skipped


@pytest.mark.parametrize(("share", "low", "high"), [(0.0, 0, 0), (0.25, 20, 85), (1.0, 199, 199)])
def test_a_share_of_the_answers_is_drawn(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, share: float, low: int, high: int
) -> None:
    """One of those drawn waits, the others are skipped."""
    write_watched(bundle)
    monkeypatch.setattr(SessionAudits, "wait_s", lambda audits: 60.0)
    with Audited(bundle, share) as service:
        for _ in range(200):
            service.ask(USERS[0], ITEMS[:2])
    assert low <= service.auditor.skipped["waiting"] <= high


@pytest.mark.parametrize("scores", [None, [3.0, 2.0, 1.0]])
def test_a_request_with_texts_counts_once_by_its_query(tmp_path: Path, scores: list[float] | None) -> None:
    """scores: a first stage's, at which the policy stops: only the audit assembles prompts."""
    bundle = write_reranker(tmp_path / "bundle", zero=scores is not None)
    write_watched(bundle)
    queries = ["wing drag", "wing drag", "drag wing"]
    with Audited(bundle, log=tmp_path / "audit.jsonl") as service:
        for n, query in enumerate(queries, 1):
            service.submit(RerankRequest(query, ["wing", "heat flow", "drag"], scores and {"bm25": scores}).job())
            wait(lambda n=n: service.watch.slates == n)  # type: ignore[misc]
        assert service.watch.test.capital.count == 2
    audits = service.logged(tmp_path / "audit.jsonl")
    assert [audit.request["query"] for audit in audits] == queries
    assert scores is None or [audit.log_odds[:, 0].tolist() for audit in audits] == [scores] * 3


def test_metrics_and_alarm(bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_watched(bundle, 0.01)
    audited = Audited(bundle, on_alarm="full-depth")
    with serving(audited.pool) as service, caplog.at_level(logging.WARNING, "rexit"):
        assert "rexit_audit_capital 1.0" in service.get("/metrics").text
        for n, user in enumerate(USERS, 1):
            assert service.score(user=user, items=ITEMS).status == 200
            if audited.watch.full_depth:
                break
            wait(lambda n=n: audited.watch.slates == n)  # type: ignore[misc]
        metrics = dict(re.findall(r"^(rexit_audit\S+) (\S+)$", service.get("/metrics").text, re.M))
        assert float(metrics["rexit_audit_capital"]) >= float(metrics["rexit_audit_alarm_capital"]) == 20
        assert metrics["rexit_audit_loss_limit"] == "0.01" and float(metrics["rexit_audit_loss_mean"]) > 0.01
        assert metrics["rexit_audit_alarm"] == metrics["rexit_audit_full_depth"] == "1.0"
        assert float(metrics["rexit_audit_seconds_total"]) > 0 and "rexit_audit_tail_capital" not in metrics
        answer = service.score(user=USERS[0], items=ITEMS)
        assert exits(answer.json["scores"]) == {2}, "no early exit after the alarm"
    (line,) = [record.getMessage() for record in caplog.records if record.getMessage().startswith("audit: ")]
    assert line.startswith("audit: alarm after ") and "every candidate now runs to full depth: calibrate again" in line
    assert audited.watch.slates == float(metrics["rexit_audit_slates_total"]), "full depth has nothing to audit"


def test_an_alarm_ends_floors(tmp_path: Path) -> None:
    """A client goes on asking for one, and gets all candidates, at full depth."""
    write_watched(bundle := write_reranker(tmp_path / "bundle"), 0.01, floor=1e6)
    audited, documents = Audited(bundle, on_alarm="full-depth"), ["wing", "heat flow", "drag"]
    body = json.dumps({"query": "wing drag", "documents": documents, "floor": True}).encode()
    prompt = {"prefix": [3], "candidates": [[6], [7, 8]], "floor": True}
    with serving(audited.pool) as service:
        answers = []
        for _ in range(2):
            answers.append(service.ask("POST", "/v1/rerank", body).json["results"])
            answers.append(service.score(**prompt).json["scores"])
            while not audited.watch.alarm:
                audited.watch.test.add(1.0)
    assert list(map(len, answers)) == [0, 0, 3, 2] and exits(answers[3]) == {2}


def test_metrics_of_a_tail(bundle: Path) -> None:
    write_watched(bundle, tail=Tail(0.07, 0.1))
    with serving(Audited(bundle).pool) as service:
        metrics = dict(re.findall(r"^rexit_audit_(\S+) (\S+)$", service.get("/metrics").text, re.M))
    assert [metrics[name] for name in ("alarm_capital", "tail_limit", "tail_share", "tail_capital")] == [
        "40.0",
        "0.07",
        "0.0",
        "1.0",
    ]


def test_log_alone_changes_nothing(bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_watched(bundle, 0.01)
    log = tmp_path / "audit.jsonl"
    with Audited(bundle, log=log) as service:
        for user in USERS:
            assert exits(service.ask_and_wait(user)) == {0}
        assert service.watch.alarm
        with pytest.raises(InputError, match="another service writes it"):
            Auditor(bundle, None, 1.0, log)
    caplog.clear()
    with Audited(bundle, log=log, on_alarm="full-depth") as again:
        (line,) = [record.getMessage() for record in caplog.records if "alarm after" in record.getMessage()]
        assert line.startswith(f"{log}: audit: alarm after ") and "runs to full depth" in line
        assert again.watch.test.capital.value == service.watch.test.capital.value, "a restart goes on with the log"
        assert exits(again.ask(USERS[0])) == {2}


def test_what_is_drawn_without_an_audit_is_counted(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_watched(bundle, loss="top-k-overlap@5")
    with Audited(bundle) as service:
        service.ask(USERS[0], ITEMS[:5])
        wait(lambda: service.auditor.skipped["short slate"] == 1)
        monkeypatch.setattr(SessionAudits, "wait_s", lambda audits: 60.0)
        for user in USERS[:2]:
            service.ask(user)
        wait(lambda: service.auditor.skipped["waiting"] == 1)
        service.pool.reload()
        wait(lambda: service.auditor.skipped["reload"] == 1)
        assert service.watch.slates == 0


def test_a_request_interrupts_an_audit_which_comes_later(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, cancelled, real = threading.Event(), threading.Event(), runtime.Session.trace_json

    def trace(session: runtime.Session, body: bytes) -> Any:
        begun.set()
        if not cancelled.is_set():
            assert cancelled.wait(30)
            raise CancelledError("cancelled")
        return real(session, body)

    write_watched(bundle)
    monkeypatch.setattr(runtime.Session, "trace_json", trace)
    monkeypatch.setattr(runtime.Session, "cancel", lambda session: cancelled.set())
    with Audited(bundle) as service:
        service.ask(USERS[0])
        assert begun.wait(30)
        service.ask(USERS[1])  # answered: it did not wait for the audit
        wait(lambda: service.watch.slates == 1)


def test_each_request_interrupts_an_audit(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a session has noticed that its audit is cancelled. A timer repeats the cancellations of all."""
    begun, cancelled, notice = threading.Semaphore(0), set[int](), threading.Event()

    def trace(session: runtime.Session, body: bytes) -> Any:
        begun.release()
        assert notice.wait(30)
        wait(lambda: id(session) in cancelled)
        raise CancelledError("cancelled")

    write_watched(bundle)
    monkeypatch.setattr(runtime.Session, "trace_json", trace)
    monkeypatch.setattr(runtime.Session, "cancel", lambda session: cancelled.add(id(session)))
    with Audited(bundle, sessions=2) as service:
        for user in USERS[:2]:
            service.ask(user)
            assert begun.acquire(timeout=30), "another session audits"
        assert not cancelled
        jobs = [job_of(USERS[0]) for _ in range(8)]
        for n, job in enumerate(jobs, 1):
            service.pool.submit(job)
            assert len(cancelled) == min(n, 2)
        timers = sum(isinstance(thread, threading.Timer) for thread in threading.enumerate())
        assert timers <= 2, "a timer that repeats, and the next, which it starts"
        notice.set()
        for job in jobs:
            job.future.result(30)


def test_a_cancellation_before_the_trace_begins_is_repeated(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, cancelled = threading.Event(), list[None]()

    def trace(session: runtime.Session, body: bytes) -> Any:
        begun.set()
        wait(lambda: len(cancelled) > 1)
        raise CancelledError("cancelled")

    write_watched(bundle)
    monkeypatch.setattr(runtime.Session, "trace_json", trace)
    monkeypatch.setattr(runtime.Session, "cancel", lambda session: cancelled.append(None))
    with Audited(bundle) as service:
        service.ask(USERS[0])
        assert begun.wait(30)
        service.ask(USERS[1])


def test_a_defect_in_an_audit_skips_it(bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def take(auditor: Auditor, *words: Any) -> None:
        raise ZeroDivisionError("a defect")

    write_watched(bundle)
    monkeypatch.setattr(Auditor, "_take", take)
    with Audited(bundle) as service:
        for n, user in enumerate(USERS[:2], 1):
            service.ask(user)
            wait(lambda n=n: service.auditor.skipped["failed"] == n)  # type: ignore[misc]
        assert service.pool.close(within_s=30) and caplog.records[0].exc_info is not None


def test_a_policy_replaced_while_the_bundle_opens(bundle: Path) -> None:
    """The tests are of the policy by which the sessions answer."""
    write_watched(bundle)
    opened = 0

    def open_session() -> runtime.Session:
        nonlocal opened
        session, opened = runtime.open(bundle), opened + 1
        if opened == 1:
            write_watched(bundle, slate=5)
        return session

    pool = Pool(open_session, 1, 16, audits := Auditor(bundle, None, 1.0))
    assert audits.watch.sha256 == pool.info.policy_sha256 and opened == 2
    pool.close()


def test_the_bound_on_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]

    class TwoSeconds(Auditor):
        def __init__(self) -> None: ...

        def draws(self, *words: Any) -> bool:
            return True

        def audit(self, *words: Any) -> bool:
            now[0] += 2
            return True

    anything: Any = object()
    monkeypatch.setattr(auditor, "MAX_TIME_SHARE", 0.1)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    audits, seconds = SessionAudits(TwoSeconds()), []
    for step in (audits.draw, audits.run, audits.draw):
        seconds.append(audits.wait_s())
        step(anything, anything)
    seconds.append(audits.wait_s())
    now[0] += 18
    assert [*seconds, audits.wait_s()] == [None, 0, None, pytest.approx(18), 0]


def test_a_reload_takes_a_new_policys_limits(bundle: Path) -> None:
    write_watched(bundle, 0.3)
    with Audited(bundle) as service:
        service.ask_and_wait(USERS[0])
        service.pool.reload()
        assert service.watch.slates == 1, "the same policy's tests go on"
        write_watched(bundle, 0.2, loss="agreement")
        service.pool.reload()
        assert service.watch.limits.loss == "agreement" and service.watch.slates == 0
        service.ask_and_wait(USERS[0])


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--audit", "1.5"), "--audit 1.5, expected a share from 0 to 1"),
        (("--audit", "nan"), "--audit nan, expected a share from 0 to 1"),
        (("--audit", "-0.1"), "--audit -0.1, expected a share from 0 to 1"),
        (("--audit-log", "log.jsonl"), "--audit-log is for --audit, expected a share above 0"),
        (("--on-alarm", "full-depth"), "--on-alarm is for --audit, expected a share above 0"),
        (("--audit", "1", "--on-alarm", "panic"), "on alarm 'panic', expected one of log, full-depth"),
        (("--audit", "1", "--audit-log", "no/where.jsonl"), "no/where.jsonl: cannot be written: No such file or directory"),
    ],
)
def test_bad_options_are_one_line(bundle: Path, words: tuple[str, ...], line: str) -> None:
    write_watched(bundle)
    ended = CliRunner().invoke(app, ["serve", str(bundle), "--port", "0", *words])
    assert str(ended.exception) == line


def test_a_bundle_without_a_policy_leaves_no_log(bundle: Path, tmp_path: Path) -> None:
    words = ["serve", str(bundle), "--port", "0", "--audit", "1", "--audit-log", str(tmp_path / "audit.jsonl")]
    assert str(CliRunner().invoke(app, words).exception).endswith("has no policy to audit, expected one from `rexit calibrate`")
    assert not (tmp_path / "audit.jsonl").exists()
