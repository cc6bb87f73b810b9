"""`rexit-run` in a process of its own, as `make` built it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from rexit import runtime
from running.command import Ended

BUILD = Path(os.environ.get("REXIT_TEST_BUILD", Path(__file__).parents[2] / "build"))
PROGRAM = BUILD / "prefix" / "bin" / "rexit-run"


def environment() -> dict[str, str]:
    """With the ONNX Runtime that Python loads."""
    assert PROGRAM.exists(), f"{PROGRAM} is not built: run `make {PROGRAM.relative_to(BUILD.parent)}`"
    return {**os.environ, "REXIT_ONNXRUNTIME_LIBRARY": runtime.onnxruntime_library()}


def run_program(*words: object, stdin: str | bytes = "") -> Ended:
    data = stdin.encode() if isinstance(stdin, str) else stdin
    done = subprocess.run([PROGRAM, *map(str, words)], input=data, env=environment(), capture_output=True, timeout=120)
    return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())


def assert_one_error(ended: Ended, code: int, *expected: str) -> None:
    """One line on stderr that names what is wrong, with nothing on stdout."""
    assert (ended.code, ended.out) == (code, ""), ended
    lines = ended.err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("rexit-run: error: "), ended.err
    for text in expected:
        assert text in lines[0]
