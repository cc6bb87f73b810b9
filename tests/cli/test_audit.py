"""`rexit audit`: audited slates, without labels and with outcomes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from builders.bundles.catalog import ITEM_IDS, USER_IDS
from builders.bundles.watched import write_watched
from rexit.audit.log import AuditedSlate, AuditLog
from rexit.bundle import Bundle
from running.command import Run, assert_one_line

ITEMS = [int(item) for item in ITEM_IDS]


def write_log(path: Path, bundle: Bundle, *, reverse: bool = True) -> None:
    """A slate of each user. Full depth has the last candidate first; so does the policy, or the first one."""
    assert bundle.policy_sha256 is not None
    c = [float(n) for n in range(len(ITEMS))]
    first = AuditedSlate(0.0, 0, ITEMS, c[::-1] if reverse else c, c, [0] * len(ITEMS), bundle.policy_sha256)
    log = AuditLog(path)
    log.write(replace(first, policy_sha256="e" * 64, policy=c[::-1]))  # another policy's
    for n, user in enumerate(USER_IDS):
        log.write(replace(first, time=float(n), user=int(user)))
    log.close()


@pytest.fixture
def audited(place: Path) -> Path:
    settings = {"metrics": ["ndcg@5"], "max_drop": 0.01, "slate": 20, "tail": "0.5:0.1"}
    bundle = write_watched(place / "bundle", 0.1, settings=settings)
    write_log(place / "audit.jsonl", bundle)
    return place


def write_outcomes(place: Path, rows: list[tuple[Any, ...]], columns: tuple[str, ...] = ("user_id", "item_id", "liked")) -> Path:
    path = place / "outcomes.csv"
    path.write_text("\n".join(",".join(map(str, row)) for row in (columns, *rows)) + "\n")
    return path


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


def test_outcomes_are_joined(run: Run, audited: Path) -> None:
    """Users like what full depth ranks first."""
    rows = [(int(user), item, int(n >= len(ITEMS) // 2)) for user in USER_IDS for n, item in enumerate(ITEMS)]
    path = write_outcomes(audited, rows)
    words = ("audit", audited / "bundle", audited / "audit.jsonl", "--outcomes", path)
    ended = run(*words, "--column", "liked=liked", "--json")
    assert ended.code == 0, ended.err
    outcomes = ended.json["outcomes"]
    metrics = {metric["name"]: metric for metric in outcomes["metrics"]}
    assert outcomes["outcomes"] == [len(rows), len(rows)] and set(metrics) == {"ndcg@5", "ndcg@10", "user-auc", "auc"}
    assert (metrics["auc"]["policy"], metrics["auc"]["full"]) == (0, 1) and metrics["auc"]["capital"] is None
    assert metrics["ndcg@5"]["drop"] == pytest.approx(1) and metrics["ndcg@5"]["limit"] == 0.01
    assert metrics["ndcg@5"]["tail"][0] == 1 and metrics["auc"]["tail"] is None
    table = run(*words, "--column", "liked=liked")
    assert "100.0 %" in table.out
    assert table.code == 0 and f"By {len(rows):,} of {len(rows):,} outcomes" in table.out and "calibration error" in table.out
    clicks = pl.DataFrame([row[:2] for row in rows if row[2]], schema=["user_id", "item_id"], orient="row")
    clicks.write_parquet(audited / "clicks.parquet")
    again = run("audit", audited / "bundle", audited / "audit.jsonl", "--outcomes", audited / "clicks.parquet", "--json").json
    assert again["outcomes"]["metrics"] == outcomes["metrics"]


def test_bad_outcomes_are_one_line(run: Run, audited: Path) -> None:
    user, item = int(USER_IDS[0]), ITEMS[0]
    words = ("audit", audited / "bundle", audited / "audit.jsonl", "--outcomes", audited / "outcomes.csv")
    for rows, line in (
        ([(999999, item, 1)], "row 1: user 999999 is unknown, expected one of the catalog or of the log"),
        ([(user, item, 1), (user, item, 0)], f"row 2: user {user} and item {item} appear twice, expected one outcome each"),
        ([(user, item, 2)], "row 1: liked is '2', expected 1 or 0"),
        ([(user, 4, 1)], "none of 1 outcomes belongs to an audited slate"),
        ([(user, item, 1)], "all 1 labelled candidates are liked, expected both kinds"),
        ([("x", item, 1)], "row 1: user 'x'"),
    ):
        write_outcomes(audited, rows)
        assert_one_line(run(*words, "--column", "liked=liked"), 2, line)
    write_outcomes(audited, [(user, item)], ("user_id", "item_id"))
    assert_one_line(run(*words, "--column", "liked=liked"), 2, "no column 'liked' (--column liked=NAME)")
    assert_one_line(run(*words, "--column", "user=who"), 2, "no column 'who' (--column user=NAME)")
    (audited / "outcomes.csv").unlink()
    assert_one_line(run(*words), 2, "outcomes.csv: no such file")


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
    log.write_text(log.read_text().splitlines()[0] + "\n")
    assert_one_line(run(*words), 2, "has no slate that the bundle's policy answered")
    log.write_text("{\n")
    assert_one_line(run(*words), 2, "audit.jsonl: line 1: not JSON")
    log.unlink()
    assert_one_line(run(*words), 2, "audit.jsonl: cannot be read")
