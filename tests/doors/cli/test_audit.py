"""`rexit audit`: the log of a service's audits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from builders.bundles.catalog import ITEM_IDS, USER_IDS
from builders.bundles.watched import write_watched
from rexit.format.bundle import Bundle
from rexit.upkeep.audit import Audit, AuditLog
from running.command import Run, assert_one_line

ITEMS = [int(item) for item in ITEM_IDS]


def write_log(path: Path, bundle: Bundle, *, reverse: bool = True) -> None:
    """A request of each user. Full depth has the last candidate first; so does the policy, or the first one."""
    assert bundle.policy_sha256 is not None
    z = np.arange(len(ITEMS), dtype=np.float32)
    log_odds = np.stack([z[::-1] if reverse else z, z, z], 1)
    log = AuditLog(path)
    log.write(Audit(0.0, {"user": 0, "items": ITEMS}, log_odds, "e" * 64))  # another policy's
    for n, user in enumerate(USER_IDS):
        log.write(Audit(float(n), {"user": int(user), "items": ITEMS}, log_odds, bundle.policy_sha256))
    log.close()


@pytest.fixture
def audited(place: Path) -> Path:
    bundle = write_watched(place / "bundle", 0.1)
    write_log(place / "audit.jsonl", bundle)
    return place


def test_an_alarm_is_printed(run: Run, audited: Path) -> None:
    ended = run("audit", audited / "bundle", audited / "audit.jsonl", "--json")
    assert ended.code == 0
    test = ended.json
    assert test["users"] == test["slates"] == len(USER_IDS) and test["mean"] == 1
    assert test["alarm_at"] <= 4 and test["capital"] > 20 and test["alarm"] and test["loss"] == "rank-correlation"
    table = run("audit", audited / "bundle", audited / "audit.jsonl")
    assert table.code == 0 and f"after {test['alarm_at']} users" in table.out and "Calibrate again" in table.out


def test_no_alarm_is_printed(run: Run, audited: Path) -> None:
    (audited / "audit.jsonl").unlink()
    write_log(audited / "audit.jsonl", Bundle.open(audited / "bundle"), reverse=False)
    ended = run("audit", audited / "bundle", audited / "audit.jsonl")
    assert (
        ended.code == 0
        and "Keep the policy: " in ended.out
        and "no sign of more." in ended.out
        and "Calibrate again" not in ended.out
    )


def test_a_log_without_an_audit_of_the_policy(run: Run, audited: Path) -> None:
    log = audited / "audit.jsonl"
    for text in ("", log.read_text().splitlines()[0] + "\n"):
        log.write_text(text)
        ended = run("audit", audited / "bundle", log)
        assert ended.code == 0 and "Keep the policy: nothing is known of what it loses: no audit of it has" in ended.out


def test_an_alarm_of_the_tail_alone_does_not_blame_the_mean(run: Run, audited: Path) -> None:
    report = audited / "bundle" / "variants" / "cpu-fp32" / "report.json"
    values = json.loads(report.read_text())
    values["watch"] |= {"limit": 0.999, "tail": {"share": 0.01, "loss": 0.5}}
    report.write_text(json.dumps(values))
    ended = run("audit", audited / "bundle", audited / "audit.jsonl")
    assert ended.code == 0 and "Calibrate again" in ended.out and "; the share cannot be within the limit" in ended.out
    assert (
        f"after {run('audit', audited / 'bundle', audited / 'audit.jsonl', '--json').json['tail']['alarm_at']} users" in ended.out
    )


def test_bad_logs_are_one_line(run: Run, audited: Path) -> None:
    log, report = audited / "audit.jsonl", audited / "bundle" / "variants" / "cpu-fp32" / "report.json"
    words = ("audit", audited / "bundle", log)
    good = json.loads(report.read_text())
    for change, code, line in (
        ({"watch": None}, 2, "there is nothing to audit"),
        ({"watch": {}}, 4, "report.json: watch: `loss` is missing"),
        ({"watch": {**good["watch"], "loss": "charm"}}, 4, "loss 'charm': unknown"),
        ({"watch": {**good["watch"], "limit": 1.5}}, 4, "limit: is 1.5, expected a number above 0 and below 1"),
        ({"policy_sha256": "e"}, 4, "made for another policy than this one: calibrate again"),
        ({"variant_sha256": "e"}, 4, "made for another variant than this one: calibrate again"),
    ):
        report.write_text(json.dumps({**good, **change}))
        assert_one_line(run(*words), code, line)
    report.write_text(json.dumps({name: value for name, value in good.items() if name != "watch"}))
    assert_one_line(run(*words), 2, "has no `watch`, the limit of what is audited: calibrate again")
    report.write_text(json.dumps(good))
    log.write_text("{\n")
    assert_one_line(run(*words), 2, "audit.jsonl: line 1: not JSON")
    log.unlink()
    assert_one_line(run(*words), 2, "audit.jsonl: cannot be read")
