"""Commands stopped at points of their writing, in a process that has started no threads yet."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from crash.commands import COMMANDS
from crash.points import HOW

TESTS = Path(__file__).parents[1]


def _stopped(*words: str) -> str:
    """What `python -m crash.points` prints."""
    command = [sys.executable, "-W", "ignore", "-m", "crash.points", *words]
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    done = subprocess.run(command, cwd=TESTS, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("command", [command.name for command in COMMANDS])
def test_what_a_stopped_command_leaves_is_the_old_or_the_new(command: str) -> None:
    with ThreadPoolExecutor() as pool:  # all ways at once: a command has hundreds of points
        for how, output in zip(HOW, pool.map(lambda how: _stopped("--command", command, "--how", how), HOW), strict=True):
            assert output.startswith(f"{command}, {how}: ")
