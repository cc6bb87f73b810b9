"""The file of audits: what is read back, and what is refused."""

from __future__ import annotations

import json
import resource
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rexit.errors import InputError
from rexit.upkeep.audit import Audit, AuditLog, read_log

SHA256 = "e" * 64
ODDS = np.array([[0.1, 1 / 3], [-1e-7, 3e5]], np.float32)
AUDIT = Audit(1.5, {"user": "ü", "items": [3, "x"], "as_of": 7, "recent": [5, [6, False]]}, ODDS, SHA256)
LINE = {**AUDIT.request, "audit": {"time": 1.5, "policy_sha256": SHA256, "log_odds": ODDS.tolist()}}


def users(path: Path) -> list[Any]:
    return [audit.unit for audit in read_log(path, SHA256, 2)]


def write(path: Path, *audits: Audit) -> None:
    log = AuditLog(path)
    for audit in audits:
        log.write(audit)
    log.close()


def test_audits_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    write(path, AUDIT, replace(AUDIT, policy_sha256="other", log_odds=ODDS[:, :1]))
    write(path, replace(AUDIT, request={"user": 7}))
    first, second = read_log(path, SHA256, 2)
    assert (first.time, first.request, first.policy_sha256) == (1.5, AUDIT.request, SHA256)
    np.testing.assert_array_equal(first.log_odds, ODDS)
    assert second.request == {"user": 7}
    assert path.stat().st_mode & 0o77 == 0


def test_what_counts_once() -> None:
    same: dict[str, Any] = {"prefix": [1, 2], "candidates": [[3], [4]]}
    requests: list[dict[str, Any]] = [
        {"user": 3, "items": [4]},
        {"user": "3", "items": [4]},
        same,
        {**same, "prefix": [1, 3]},
        {"prefix": [], "candidates": [[1, 3], [1, 4]]},  # an encoder's
        {"candidates": [[1, 3], [1, 5]]},
        {"query": "wing drag", "documents": ["a"]},
        {"query": "drag", "documents": ["a"]},
    ]
    units = [replace(AUDIT, request=request).unit for request in requests]
    assert units[:2] == [3, "3"] and len(set(units)) == len(units)
    others: list[dict[str, Any]] = [{**same, "candidates": [[5]], "top_k": 1}, {"query": "drag", "documents": ["b", "c"]}]
    assert [replace(AUDIT, request=request).unit for request in others] == [units[2], units[-1]]


def test_a_killed_services_last_line_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    line = json.dumps(LINE) + "\n"
    path.write_text(line + line[:40])
    assert users(path) == ["ü"]
    write(path, AUDIT)
    assert users(path) == ["ü", "ü"]


def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    """A limit of the file's size does what a full disk does: it takes a part of the line, then refuses."""
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path)
    log.write(AUDIT)
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 40, before[1]))
        with pytest.raises(InputError, match=r"audit\.jsonl: cannot be written: File too large"):
            log.write(AUDIT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    log.write(replace(AUDIT, request={"user": 7}))
    log.close()
    assert users(path) == ["ü", 7]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"log_odds": [[None, 1]]}, r"audit.log_odds\[0\]\[0\]: is None, expected a number"),
        ({"log_odds": [[1, 2], [1]]}, "audit.log_odds: expected 2 numbers for each candidate, one for each exit"),
        ({"log_odds": [[1, 2, 3]]}, "audit.log_odds: expected 2 numbers"),
        ({"log_odds": []}, "audit.log_odds: expected 2 numbers"),
        ({"log_odds": [[1e39, 1]]}, "audit.log_odds: holds a number that float32 cannot"),
        ({"time": float("nan")}, "not JSON: "),
        ({"policy_sha256": None}, "audit.policy_sha256: is None, expected a string"),
    ],
)
def test_other_lines_are_refused(tmp_path: Path, changes: dict[str, Any], line: str) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_text(json.dumps(LINE) + "\n" + json.dumps({**LINE, "audit": {**LINE["audit"], **changes}}) + "\n")
    with pytest.raises(InputError, match=line) as error:
        users(path)
    assert str(error.value).startswith(f"{path}: line 2: ")


@pytest.mark.parametrize("text", ["{\n", "[]\n", "\xff\n", "{}\n", '{"audit": {}}\n', "[" * 100000 + "\n"])
def test_files_of_another_kind_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=f"^{path}"):
        users(path)
    with pytest.raises(InputError, match="cannot be read"):
        users(tmp_path / "none")
