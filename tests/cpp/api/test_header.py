"""What compilers make of rexit.h beyond tests/cpp/api/abi_test.c."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

INCLUDE = Path(__file__).parents[3] / "runtime" / "include"
PROGRAM = """
#include <rexit/rexit.h>
void f(rexit_session* session);
void f(rexit_session* session) {{ {statement} }}
"""


@pytest.mark.parametrize("options", [["-x", "c", "-std=c99"], ["-x", "c++", "-std=c++17"]])
def test_an_ignored_status_is_a_warning(options: list[str]) -> None:
    compiler = shutil.which("cc") or pytest.skip("this machine has no C compiler")

    def warnings(statement: str) -> str:
        command = [compiler, *options, "-Wall", "-I", str(INCLUDE), "-c", "-o", "/dev/null", "-"]
        done = subprocess.run(command, input=PROGRAM.format(statement=statement), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stderr

    assert warnings("if (rexit_session_trim(session) != REXIT_OK) return;") == ""
    assert "warning: ignoring return value" in warnings("rexit_session_trim(session);")
