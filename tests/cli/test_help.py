"""The help of the commands."""

from __future__ import annotations

import pytest

from running.command import Run


@pytest.mark.parametrize("command", ["calibrate", "score", "drift", "refresh", "verify", "inspect", "bench"])
def test_help_shows_an_example(run: Run, command: str) -> None:
    ended = run(command, "--help")
    assert ended.code == 0 and f"rexit {command} " in ended.out.split("Usage:")[1].split("\n", 1)[1]
