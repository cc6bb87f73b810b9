"""A few points of the quick commands, in a process that has started no threads yet; `python -m crash.points` goes through all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from crash.points import HOW


@pytest.mark.parametrize("command", ["index", "calibrate", "refresh"])
def test_stopped_at_a_few_points(command: str) -> None:
    tests = Path(__file__).parents[1]
    words = [sys.executable, "-W", "ignore", "-m", "crash.points", "--points", "3", "--command", command]
    done = subprocess.run(
        words, cwd=tests, env={**os.environ, "PYTHONPATH": str(tests)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(" 3 of ")[0] for line in lines] == [f"{command}, {how}:" for how in HOW]
