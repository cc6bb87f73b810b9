"""The file of audited slates: what is read back, and what is refused."""

from __future__ import annotations

import json
import resource
import signal
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from rexit.audit.log import AuditedSlate, AuditLog, read_log
from rexit.errors import InputError

SLATE = AuditedSlate(1.5, "ü", [3, "x"], [0.5, -1.0], [0.25, 2.0], [0, 1], "e" * 64)


def test_slates_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    for user in ("ü", 7):
        log = AuditLog(path)
        log.write(replace(SLATE, user=user))
        log.close()
    assert list(read_log(path)) == [SLATE, replace(SLATE, user=7)]
    assert path.stat().st_mode & 0o77 == 0


def test_a_killed_services_last_line_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    line = json.dumps(asdict(SLATE)) + "\n"
    path.write_text(line + line[:40])
    assert list(read_log(path)) == [SLATE]
    log = AuditLog(path)
    log.write(SLATE)
    log.close()
    assert list(read_log(path)) == [SLATE, SLATE]


def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    """A limit of the file's size does what a full disk does: it takes a part of the line, then refuses."""
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path)
    log.write(SLATE)
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 40, before[1]))
        with pytest.raises(InputError, match=r"audit\.jsonl: cannot be written: File too large"):
            log.write(SLATE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    log.write(replace(SLATE, user=7))
    log.close()
    assert list(read_log(path)) == [SLATE, replace(SLATE, user=7)]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"full": [None, 1]}, r"full\[0\]: is None, expected a number"),
        ({"full": [1]}, "items, policy, full and exits differ in length"),
        ({"policy": [1e400, 0]}, "holds a number that is not finite"),
        ({"user": None}, "user: is None, expected an integer or a string"),
        ({"exits": [0]}, "items, policy, full and exits differ in length"),
        ({"items": [], "policy": [], "full": [], "exits": []}, "expected one of each per candidate"),
    ],
)
def test_other_lines_are_refused(tmp_path: Path, changes: dict[str, Any], line: str) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_text(json.dumps(asdict(SLATE)) + "\n" + json.dumps({**asdict(SLATE), **changes}) + "\n")
    with pytest.raises(InputError, match=line) as error:
        list(read_log(path))
    assert str(error.value).startswith(f"{path}: line 2: ")


@pytest.mark.parametrize("text", ["{\n", "[]\n", "\xff\n", "{}\n", "[" * 100000 + "\n"])
def test_files_of_another_kind_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=f"^{path}"):
        list(read_log(path))
    with pytest.raises(InputError, match="cannot be read"):
        list(read_log(tmp_path / "none"))
