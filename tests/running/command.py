"""The command line in this process: its output and its exit code."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from rexit.doors.cli import main


class Ended(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Ended]
"""Runs a command, given its words: the fixture `run`."""


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """A conftest.py imports it."""

    def call(*words: object) -> Ended:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["rexit", *(str(word) for word in words)])
        with pytest.raises(SystemExit) as end:
            main()
        printed = capsys.readouterr()
        return Ended(int(end.value.code or 0), printed.out, printed.err)

    return call


def calibrate(run: Run, place: Path, *more: object) -> Ended:
    """`place/bundle` on `place/catalog`, in a second. Few users certify no small drop."""
    words = ("--max-drop", 0.45, "--confidence", 0.6, "--metric", "ndcg@5", "--slate", 10)
    return run("calibrate", place / "bundle", "--catalog", place / "catalog", *words, *more)


def assert_one_line(ended: Ended, code: int, *expected: str) -> None:
    """An error is one line on stderr that names what is wrong, with nothing on stdout."""
    assert ended.code == code, ended.err
    assert ended.out == ""
    lines = ended.err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("rexit: error: "), ended.err
    for text in expected:
        assert text in lines[0]


FOUR_ROWS = "user_id,item_id,as_of\n100,3,30\n103,8,30\n100,-7,30\n100,8,40\n"


def write_pairs(place: Path, name: str = "pairs.csv", text: str = FOUR_ROWS) -> Path:
    path = place / name
    path.write_text(text)
    return path
