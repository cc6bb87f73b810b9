"""Puts the doubles in `tests/doubles` where a builder's process finds them: see the README there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

DOUBLES = Path(__file__).parent / "doubles"


class Doubles:
    """`tensorrt` for the processes that are started from now on; a GPU too, once `add_gpu` is called."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder, self._monkeypatch = folder, monkeypatch
        self._calls = folder / "calls"
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(DOUBLES), os.environ.get("PYTHONPATH")))))
        monkeypatch.setenv("TENSORRT_DOUBLE_CALLS", str(self._calls))

    def add_gpu(self) -> None:
        """An Orin of compute capability 8.7."""
        compiler = shutil.which("cc") or shutil.which("gcc")
        assert compiler is not None, "no C compiler; the C++ tests need one too"
        library = self._folder / "libcuda.so.1"
        subprocess.run([compiler, "-shared", "-fPIC", "-o", library, DOUBLES / "cuda.c"], check=True)
        self._monkeypatch.setenv("LD_LIBRARY_PATH", str(self._folder))

    def fail(self, at: str) -> None:
        """parse, build or kill."""
        self._monkeypatch.setenv("TENSORRT_DOUBLE_FAILS", at)

    def calls(self, name: str) -> list[list[Any]]:
        """The arguments of each call of that name so far."""
        lines = self._calls.read_text().splitlines() if self._calls.exists() else []
        return [call[1:] for call in map(json.loads, lines) if call[0] == name]
