"""`rexit serve --audit` on a real bundle: what is scored again, what is counted, and what an alarm changes."""

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
from rexit.audit import Audit, read_log
from rexit.bundle import Bundle, TopK
from rexit.cli import app
from rexit.errors import CancelledError, InputError
from rexit.serve import Auditor, Pool, auditor
from rexit.serve.auditor import SessionAudits
from rexit.serve.jobs import RerankJob, RerankRequest, ScoreJob
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


def pool_of(bundle: Path, share: float = 1.0, **options: Any) -> Pool:
    return Pool(partial(runtime.open, bundle), 1, 16, Auditor(bundle, None, share, **options))


def exits(scores: list[dict[str, Any]]) -> set[int]:
    return {score["exit"] for score in scores}


def ask(pool: Pool, user: int, items: list[int] = ITEMS, **options: Any) -> Any:
    job = ScoreJob(body=json.dumps({"user": user, "items": items, **options}).encode())
    pool.submit(job)
    return json.loads(job.future.result(30).body)["scores"]


def wait(done: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not done():
        assert time.monotonic() < until, "no audit within 30 seconds"
        time.sleep(0.002)


def ask_and_wait(pool: Pool, user: int, items: list[int] = ITEMS, **options: Any) -> Any:
    assert pool.auditor is not None
    before = slates(pool)
    scores = ask(pool, user, items, **options)
    wait(lambda: slates(pool) > before)
    return scores


def slates(pool: Pool) -> int:
    assert pool.auditor is not None
    return pool.auditor.watch.slates


def logged(bundle: Path, log: Path) -> list[Audit]:
    return list(read_log(log, str(Bundle.open(bundle).policy_sha256), 3))


@pytest.mark.parametrize("fields", [{}, {"top_k": 4, "recent": [ITEMS[0], [ITEMS[1], False]], "as_of": 40}])
def test_an_answered_request_is_traced(bundle: Path, tmp_path: Path, fields: dict[str, Any]) -> None:
    write_watched(bundle, loss="top-k-overlap@4")
    pool = pool_of(bundle, log=tmp_path / "audit.jsonl")
    scores = ask_and_wait(pool, USERS[0], **fields)
    assert pool.auditor is not None
    test = pool.auditor.watch
    pool.close()
    (audit,) = logged(bundle, tmp_path / "audit.jsonl")
    assert audit.request == {"user": USERS[0], "items": ITEMS, **fields}
    with runtime.open(bundle) as session:
        recent = [ITEMS[0], (ITEMS[1], False)] if fields else None
        full = session.score(USERS[0], ITEMS, force_exit=2, recent=recent, as_of=fields.get("as_of")).log_odds
    np.testing.assert_allclose(audit.log_odds[:, 2], full, atol=1e-5)
    for score in scores:
        assert score["exit"] == 0 and score["log_odds"] == pytest.approx(audit.log_odds[ITEMS.index(score["item"]), 0], abs=1e-5)
    best, answered = (set(np.argsort(-z)[:4].tolist()) for z in (full, audit.log_odds[:, 0]))
    assert test.test.mean == pytest.approx(1 - len(best & answered) / 4) and test.test.mean > 0


def test_a_requests_own_top_k_is_not_the_policys(bundle: Path) -> None:
    """The answer to top_k = 1 stops sooner; what the policy itself would lose is the same."""
    write_watched(bundle, top_k=TopK(6, True, (0.1, 0.1), (0.1, 0.1)))
    means, depths = [], []
    for top_k in (0, 1):
        pool = pool_of(bundle)
        depths.append(max(score["exit"] for score in ask_and_wait(pool, USERS[0], top_k=top_k)))
        assert pool.auditor is not None
        means.append(pool.auditor.watch.test.mean)
        pool.close()
    assert means[0] == means[1] and depths[1] < depths[0]


def test_an_audit_begins_after_the_answer(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_watched(bundle)
    job = ScoreJob(body=json.dumps({"user": USERS[0], "items": ITEMS}).encode())
    real, done = runtime.Session.trace, []

    def trace(session: runtime.Session, request: Any) -> Any:
        done.append(job.future.done())
        return real(session, request)

    monkeypatch.setattr(runtime.Session, "trace", trace)
    pool = pool_of(bundle)
    pool.submit(job)
    job.future.result(30)
    wait(lambda: slates(pool) == 1)
    assert done == [True]
    pool.close()


def test_what_no_policy_stops_is_not_drawn(bundle: Path) -> None:
    write_watched(bundle)
    pool = pool_of(bundle)
    ask(pool, USERS[0], force_exit=1)
    ask_and_wait(pool, USERS[1])
    assert slates(pool) == 1 and pool.auditor is not None and not pool.auditor.skipped
    pool.close()


def test_a_share_of_the_answers_is_drawn(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_watched(bundle)
    monkeypatch.setattr(SessionAudits, "wait_s", lambda audits: 60.0)
    drawn = []
    for share in (0.0, 0.25):
        pool = pool_of(bundle, share)
        for _ in range(200):
            ask(pool, USERS[0], ITEMS[:2])
        assert pool.auditor is not None
        pool.close()
        drawn.append(pool.auditor.skipped["waiting"])
    assert drawn[0] == 0 and 20 <= drawn[1] <= 85


@pytest.mark.parametrize("scores", [None, [3.0, 2.0, 1.0]])
def test_a_request_with_texts_counts_once_by_its_query(tmp_path: Path, scores: list[float] | None) -> None:
    """scores: a first stage's, at which the policy stops: only the audit assembles prompts."""
    bundle = write_reranker(tmp_path / "bundle", zero=scores is not None)
    write_watched(bundle)
    pool = pool_of(bundle, log=tmp_path / "audit.jsonl")
    for query in ("wing drag", "wing drag", "drag wing"):
        before, job = slates(pool), RerankJob(request=RerankRequest(query, ["wing", "heat flow", "drag"], scores))
        pool.submit(job)
        job.future.result(30)
        wait(lambda before=before: slates(pool) > before)  # type: ignore[misc]
    assert pool.auditor is not None and pool.auditor.watch.test.capital.count == 2
    pool.close()
    audits = list(read_log(tmp_path / "audit.jsonl", pool.auditor.watch.sha256, pool.info.exits))
    assert [audit.request["query"] for audit in audits] == ["wing drag", "wing drag", "drag wing"]
    assert scores is None or [audit.log_odds[:, 0].tolist() for audit in audits] == [scores] * 3


def test_metrics_and_alarm(bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_watched(bundle, 0.01)
    pool = pool_of(bundle, on_alarm="full-depth")
    with serving(pool) as service, caplog.at_level(logging.WARNING, "rexit"):
        assert "rexit_audit_capital 1.0" in service.get("/metrics").text
        for user in USERS:
            assert service.score(user=user, items=ITEMS).status == 200
            if pool.auditor is not None and pool.auditor.watch.full_depth:
                break
            wait(lambda user=user: slates(pool) > USERS.index(user))  # type: ignore[misc]
        metrics = dict(re.findall(r"^(rexit_audit\S+) (\S+)$", service.get("/metrics").text, re.M))
        assert float(metrics["rexit_audit_capital"]) >= 20 and metrics["rexit_audit_alarm"] == "1.0"
        assert metrics["rexit_audit_loss_limit"] == "0.01" and float(metrics["rexit_audit_loss_mean"]) > 0.01
        assert metrics["rexit_audit_full_depth"] == "1.0" and float(metrics["rexit_audit_seconds_total"]) > 0
        counted = float(metrics["rexit_audit_slates_total"])
        answer = service.score(user=USERS[0], items=ITEMS)
        assert {score["exit"] for score in answer.json["scores"]} == {2}, "no early exit after the alarm"
    (line,) = [record.getMessage() for record in caplog.records if record.getMessage().startswith("audit: ")]
    assert line.startswith("audit: alarm after ") and "every candidate now runs to full depth: calibrate again" in line
    assert slates(pool) == counted, "full depth has nothing to audit"


def test_log_alone_changes_nothing(bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_watched(bundle, 0.01)
    pool = pool_of(bundle, log=tmp_path / "audit.jsonl")
    for user in USERS:
        assert exits(ask_and_wait(pool, user)) == {0}
    assert pool.auditor is not None and pool.auditor.watch.alarm
    value = pool.auditor.watch.test.capital.value
    with pytest.raises(InputError, match="another service writes it"):
        Auditor(bundle, None, 1.0, tmp_path / "audit.jsonl")
    pool.close()
    with caplog.at_level(logging.WARNING, "rexit"):
        again = pool_of(bundle, log=tmp_path / "audit.jsonl", on_alarm="full-depth")
    said = [record.getMessage() for record in caplog.records if "alarm after" in record.getMessage()]
    assert said[-1].startswith(f"{tmp_path / 'audit.jsonl'}: audit: alarm after ") and "runs to full depth" in said[-1]
    assert again.auditor is not None and again.auditor.watch.test.capital.value == value, "a restart goes on with the log"
    assert exits(ask(again, USERS[0])) == {2}
    again.close()


def test_what_is_drawn_without_an_audit_is_counted(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_watched(bundle, loss="top-k-overlap@5")
    pool = pool_of(bundle)
    assert pool.auditor is not None
    ask(pool, USERS[0], ITEMS[:5])
    wait(lambda: pool.auditor.skipped["short slate"] == 1)  # type: ignore[union-attr]
    monkeypatch.setattr(SessionAudits, "wait_s", lambda audits: 60.0)
    ask(pool, USERS[0])
    ask(pool, USERS[1])
    wait(lambda: pool.auditor.skipped["waiting"] == 1)  # type: ignore[union-attr]
    pool.reload()
    wait(lambda: pool.auditor.skipped["reload"] == 1)  # type: ignore[union-attr]
    assert slates(pool) == 0
    pool.close()


def test_a_request_interrupts_an_audit_which_comes_later(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_watched(bundle)
    begun, cancelled, real = threading.Event(), threading.Event(), runtime.Session.trace

    def trace(session: runtime.Session, request: Any) -> Any:
        begun.set()
        if not cancelled.is_set():
            assert cancelled.wait(30)
            raise CancelledError("cancelled")
        return real(session, request)

    monkeypatch.setattr(runtime.Session, "trace", trace)
    monkeypatch.setattr(runtime.Session, "cancel", lambda session: cancelled.set())
    pool = pool_of(bundle)
    ask(pool, USERS[0])
    assert begun.wait(30)
    ask(pool, USERS[1])  # answered: it did not wait for the audit
    wait(lambda: slates(pool) == 1)
    pool.close()


def test_each_request_interrupts_an_audit(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two requests, before a session has noticed that its audit is cancelled."""
    write_watched(bundle)
    begun, cancelled, notice = threading.Semaphore(0), set[int](), threading.Event()

    def trace(session: runtime.Session, request: Any) -> Any:
        begun.release()
        assert notice.wait(30)
        wait(lambda: id(session) in cancelled)
        raise CancelledError("cancelled")

    monkeypatch.setattr(runtime.Session, "trace", trace)
    monkeypatch.setattr(runtime.Session, "cancel", lambda session: cancelled.add(id(session)))
    pool = Pool(partial(runtime.open, bundle), 2, 16, Auditor(bundle, None, 1.0))
    first = [ScoreJob(body=json.dumps({"user": user, "items": ITEMS}).encode()) for user in USERS[:2]]
    for job in first:
        pool.submit(job)
        assert begun.acquire(timeout=30), "another session audits"
    assert not cancelled
    second = [ScoreJob(body=job.body) for job in first]
    for n, job in enumerate(second, 1):
        pool.submit(job)
        assert len(cancelled) == n
    notice.set()
    for job in second:
        job.future.result(30)
    pool.close()


def test_a_cancellation_before_the_trace_begins_is_repeated(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_watched(bundle)
    begun, tracing, cancelled = threading.Event(), threading.Event(), list[bool]()

    def trace(session: runtime.Session, request: Any) -> Any:
        begun.set()
        wait(lambda: bool(cancelled))
        tracing.set()
        wait(lambda: len(cancelled) > 1)
        raise CancelledError("cancelled")

    monkeypatch.setattr(runtime.Session, "trace", trace)
    monkeypatch.setattr(runtime.Session, "cancel", lambda session: cancelled.append(tracing.is_set()))
    pool = pool_of(bundle)
    ask(pool, USERS[0])
    assert begun.wait(30)
    ask(pool, USERS[1])
    assert cancelled[0] is False and cancelled[-1] is True
    pool.close()


def test_a_defect_in_an_audit_skips_it(bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def take(auditor: Auditor, *words: Any) -> None:
        raise ZeroDivisionError("a defect")

    write_watched(bundle)
    monkeypatch.setattr(Auditor, "_take", take)
    pool = pool_of(bundle)
    for n, user in enumerate(USERS[:2], 1):
        ask(pool, user)
        wait(lambda n=n: pool.auditor.skipped["failed"] == n)  # type: ignore[union-attr, misc]
    assert pool.close(within_s=30) and caplog.records[0].exc_info is not None


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

    pool = Pool(open_session, 1, 16, Auditor(bundle, None, 1.0))
    assert pool.auditor is not None and pool.auditor.watch.sha256 == pool.info.policy_sha256 and opened == 2
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

    job: Any = None
    monkeypatch.setattr(auditor, "MAX_TIME_SHARE", 0.1)
    monkeypatch.setattr(auditor.time, "monotonic", lambda: now[0])
    audits = SessionAudits(TwoSeconds())
    assert audits.wait_s() is None
    audits.draw(job, job or object())
    assert audits.wait_s() == 0
    audits.run(job, job)
    assert audits.wait_s() is None
    audits.draw(job, job or object())
    assert audits.wait_s() == pytest.approx(18)
    now[0] += 18
    assert audits.wait_s() == 0


def test_a_reload_takes_a_new_policys_limits(bundle: Path) -> None:
    write_watched(bundle, 0.3)
    pool = pool_of(bundle)
    assert pool.auditor is not None
    ask_and_wait(pool, USERS[0])
    pool.reload()
    assert slates(pool) == 1, "the same policy's tests go on"
    write_watched(bundle, 0.2, loss="agreement")
    pool.reload()
    assert pool.auditor.watch.limits.loss == "agreement" and slates(pool) == 0
    ask_and_wait(pool, USERS[0])
    pool.close()


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
