"""`rexit-run`: its arguments and exit codes."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from rexit import Request
from running.program import PROGRAM, assert_one_error, environment, run_program


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        ((), 2, "no command, expected verify or pipe"),
        (("score", "BUNDLE"), 2, "there is no command `score`, expected verify or pipe"),
        (("verify",), 2, "BUNDLE is missing"),
        (("verify", "BUNDLE", "--deep"), 2, "there is no option `--deep`"),
        (("verify", "BUNDLE", "more"), 2, "`more` is one argument too many"),
        (("verify", "BUNDLE", "--json=yes"), 2, "--json takes no value"),
        (("verify", "BUNDLE", "--sessions", 1), 2, "there is no option `--sessions`"),
        (("pipe", "BUNDLE", "--variant"), 2, "--variant has no value, expected NAME"),
        (("pipe", "BUNDLE", "--variant=gpu"), 2, "gpu"),
        (("pipe", "BUNDLE", "--threads", "two"), 2, "--threads is `two`, expected an integer from 0 to 1024"),
        (("pipe", "BUNDLE", "--threads", "1x"), 2, "--threads is `1x`"),
        (("pipe", "BUNDLE", "--sessions", 0), 2, "--sessions is `0`, expected an integer from 1 to 64"),
        (("pipe", "BUNDLE", "--cache-mib", "99999999999999999999"), 2, "--cache-mib is `99999999999999999999`"),
        (("pipe", "BUNDLE", "--device", "npu"), 2, "device is `npu`, expected cpu, cuda or tensorrt"),
        (("pipe", "BUNDLE", "--library", "/none/libonnxruntime.so"), 6, "/none/libonnxruntime.so"),
        (("pipe", "/none"), 4, "/none"),
    ],
)
def test_bad_arguments(bundle: Path, words: tuple[object, ...], code: int, expected: str) -> None:
    assert_one_error(run_program(*(bundle if word == "BUNDLE" else word for word in words)), code, expected)


@pytest.mark.parametrize("words", [("verify", "BUNDLE"), ("verify", "BUNDLE", "--json"), ("--version",), ("pipe", "--help")])
def test_stdout_that_is_full(bundle: Path, words: tuple[str, ...]) -> None:
    command = [PROGRAM, *(bundle if word == "BUNDLE" else word for word in words)]
    with open("/dev/full", "w") as full:
        ended = subprocess.run(command, env=environment(), stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (1, "rexit-run: error: stdout: cannot be written\n")


def test_help_and_version() -> None:
    for command in ((), ("verify",), ("pipe",)):
        ended = run_program(*command, "--help")
        assert (ended.code, ended.err) == (0, "")
        assert f"rexit-run {''.join(command) or 'COMMAND'}" in ended.out, "an example"
    assert "8 verify found a failure" in run_program("--help").out
    pipe = run_program("pipe", "--help").out
    assert [name for name in Request.__struct_fields__ if f"`{name}`" not in pipe] == []
    assert re.fullmatch(r"rexit-run \d+\.\d+\.\d+\n", run_program("--version").out)
