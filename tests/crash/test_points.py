"""Commands stopped at points of their writing, in a process that has started no threads yet."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from crash.commands import COMMANDS
from crash.points import HOW

EVERY = 10_000


@pytest.mark.parametrize(
    ("command", "points"),
    [
        ("index", 1),
        *(pytest.param(command.name, EVERY, marks=pytest.mark.slow, id=f"{command.name}-every") for command in COMMANDS),
    ],
)
def test_what_a_stopped_command_leaves_is_the_old_or_the_new(command: str, points: int) -> None:
    tests = Path(__file__).parents[1]
    words = [sys.executable, "-W", "ignore", "-m", "crash.points", "--points", str(points), "--command", command]
    done = subprocess.run(
        words, cwd=tests, env={**os.environ, "PYTHONPATH": str(tests)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(": ")[0] for line in lines] == [f"{command}, {how}" for how in HOW]
