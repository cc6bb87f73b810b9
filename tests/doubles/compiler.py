"""Puts the doubles in this folder where a builder's process finds them: see the README."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import onnx
import pytest

DOUBLES = Path(__file__).parent


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

    def expect(self, variant: Path) -> None:
        """The graphs in that folder will be parsed."""
        inputs = {}
        for path in variant.glob("*.onnx"):
            values = onnx.load(path, load_external_data=False).graph.input
            inputs[path.name] = {
                v.name: [-1 if d.dim_param else d.dim_value for d in v.type.tensor_type.shape.dim] for v in values
            }
        self._monkeypatch.setenv("TENSORRT_DOUBLE_INPUTS", json.dumps(inputs))

    def calls(self, name: str) -> list[list[Any]]:
        """The arguments of each call of that name so far."""
        lines = self._calls.read_text().splitlines() if self._calls.exists() else []
        return [call[1:] for call in map(json.loads, lines) if call[0] == name]
