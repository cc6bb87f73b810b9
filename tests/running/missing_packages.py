"""The command line where some packages are not installed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable

_WITHOUT = """
import sys

class Absent:  # what is not installed cannot be found
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
sys.argv = {words}
from rexit.doors.cli import main
main()
"""


def run_without(packages: Iterable[str], *words: object) -> subprocess.CompletedProcess[str]:
    """`rexit WORDS` in a process of its own, which lacks these packages, by their import names."""
    script = _WITHOUT.format(absent=sorted(packages), words=["rexit", *map(str, words)])
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=os.environ | {"COLUMNS": "300"})
