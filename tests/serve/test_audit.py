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
from rexit.audit import read_limits, read_log
from rexit.audit.losses import Loss
from rexit.cli import app
from rexit.errors import CancelledError, InputError
from rexit.serve import Auditor, Pool, auditor
from rexit.serve.auditor import Allowance
from rexit.serve.jobs import ScoreJob
from rexit.serve.rerank import RerankJob, RerankRequest
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
    return Pool(partial(runtime.open, bundle, audit=share), 1, 16, Auditor(bundle, None, **options))


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


@pytest.mark.parametrize("top_k", [0, 4])
def test_an_answer_is_compared_with_full_depth(bundle: Path, tmp_path: Path, top_k: int) -> None:
    watched = read_limits(write_watched(bundle, loss="top-k-overlap@4"))
    pool = pool_of(bundle, log=tmp_path / "audit.jsonl")
    scores = ask_and_wait(pool, USERS[0], top_k=top_k)
    pool.close()
    (slate,) = read_log(tmp_path / "audit.jsonl")
    with runtime.open(bundle) as session:
        full = session.score(USERS[0], ITEMS, force_exit=2)
        policy = session.score(USERS[0], ITEMS)
    assert slate.user == USERS[0] and slate.items == ITEMS and slate.exits == [0] * len(ITEMS)
    assert slate.policy == pytest.approx(policy.log_odds.tolist(), abs=1e-5)
    assert slate.full == pytest.approx(full.log_odds.tolist(), abs=1e-5)
    best = set(np.argsort(-full.log_odds)[:4].tolist())
    order = sorted(range(len(scores)), key=lambda n: -scores[n]["log_odds"])
    answered = {ITEMS.index(scores[n]["item"]) for n in order[:4]}
    assert watched.loss_of(slate) == pytest.approx(1 - len(best & answered) / 4)


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
    logged = list(read_log(tmp_path / "audit.jsonl"))
    units = [slate.user for slate in logged]
    assert scores is None or [slate.policy for slate in logged] == [scores] * 3
    assert len(units) == 3 and units[0] == units[1] != units[2]


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


def test_log_alone_changes_nothing(bundle: Path, tmp_path: Path) -> None:
    write_watched(bundle, 0.01)
    pool = pool_of(bundle, log=tmp_path / "audit.jsonl")
    for user in USERS:
        assert exits(ask_and_wait(pool, user)) == {0}
    assert pool.auditor is not None and pool.auditor.watch.alarm
    value = pool.auditor.watch.test.capital.value
    with pytest.raises(InputError, match="another service writes it"):
        Auditor(bundle, None, tmp_path / "audit.jsonl")
    pool.close()
    again = pool_of(bundle, log=tmp_path / "audit.jsonl", on_alarm="full-depth")
    assert again.auditor is not None and again.auditor.watch.test.capital.value == value, "a restart goes on with the log"
    assert exits(ask(again, USERS[0])) == {2}
    again.close()


def test_what_is_drawn_without_an_audit_is_counted(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_watched(bundle, loss="top-k-overlap@5")
    pool = pool_of(bundle)
    assert pool.auditor is not None
    ask(pool, USERS[0], ITEMS[:5])
    wait(lambda: pool.auditor.skipped["short slate"] == 1)  # type: ignore[union-attr]
    monkeypatch.setattr(Allowance, "wait_s", lambda allowance: 60.0)
    ask(pool, USERS[0])
    ask(pool, USERS[1])
    wait(lambda: pool.auditor.skipped["waiting"] == 1)  # type: ignore[union-attr]
    pool.reload()
    wait(lambda: pool.auditor.skipped["reload"] == 1)  # type: ignore[union-attr]
    assert slates(pool) == 0
    pool.close()


def test_a_request_interrupts_an_audit_which_comes_later(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_watched(bundle)
    begun, cancelled, real = threading.Event(), threading.Event(), runtime.Session.audit

    def audit(session: runtime.Session) -> Any:
        begun.set()
        if not cancelled.is_set():
            assert cancelled.wait(30)
            raise CancelledError("cancelled")
        return real(session)

    monkeypatch.setattr(runtime.Session, "audit", audit)
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

    def audit(session: runtime.Session) -> Any:
        begun.release()
        assert notice.wait(30)
        wait(lambda: id(session) in cancelled)
        raise CancelledError("cancelled")

    monkeypatch.setattr(Allowance, "spend", lambda allowance, seconds: None)
    monkeypatch.setattr(runtime.Session, "audit", audit)
    monkeypatch.setattr(runtime.Session, "cancel", lambda session: cancelled.add(id(session)))
    pool = Pool(partial(runtime.open, bundle, audit=1.0), 2, 16, Auditor(bundle, None))
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
    monkeypatch.setattr(runtime.Session, "audit", lambda session: None)
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
        session, opened = runtime.open(bundle, audit=1.0), opened + 1
        if opened == 1:
            write_watched(bundle, slate=5)
        return session

    pool = Pool(open_session, 1, 16, Auditor(bundle, None))
    assert pool.auditor is not None and pool.auditor.watch.limits.sha256 == pool.info.policy_sha256 and opened == 2
    pool.close()


def test_the_bound_on_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auditor, "MAX_TIME_SHARE", 0.1)
    now = [100.0]
    monkeypatch.setattr(auditor.time, "monotonic", lambda: now[0])
    allowance = Allowance()
    assert allowance.wait_s() == 0
    now[0] += 2
    allowance.spend(2)
    assert allowance.wait_s() == pytest.approx(18)
    now[0] += 18
    assert allowance.wait_s() == 0


def test_a_reload_takes_a_new_policys_limits(bundle: Path) -> None:
    write_watched(bundle, 0.3)
    pool = pool_of(bundle)
    assert pool.auditor is not None
    ask_and_wait(pool, USERS[0])
    pool.reload()
    assert slates(pool) == 1, "the same policy's tests go on"
    write_watched(bundle, 0.2, loss="agreement")
    pool.reload()
    assert pool.auditor.watch.limits.loss == Loss("agreement") and slates(pool) == 0
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
