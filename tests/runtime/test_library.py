"""An ONNX Runtime that is too old for a variant's graphs: said before it is asked to load them.

A process has one ONNX Runtime, so each bundle is opened in a process of its own. The old one is the system's: Debian 13 has 1.21.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from builders.bundles.bundle import write_bundle
from damage.table import VARIANT, Row

OPEN = """
import sys
from rexit import runtime
from rexit.errors import RexitError
try:
    with runtime.open(sys.argv[1], library=sys.argv[2]) as session:
        session.score(106, [-7, 18])
    print("REXIT_OK")
except RexitError as error:
    print(error.status, error)
"""


class _ApiBase(ctypes.Structure):
    _fields_ = (("api", ctypes.c_void_p), ("version", ctypes.CFUNCTYPE(ctypes.c_char_p)))


def system_library() -> tuple[str, tuple[int, ...]] | None:
    """Path and version of the system's own ONNX Runtime."""
    for folder in Path("/usr/lib"), *Path("/usr/lib").glob("*-linux-gnu"):
        for path in folder.glob("libonnxruntime.so*"):
            base = ctypes.CDLL(str(path)).OrtGetApiBase
            base.restype = ctypes.POINTER(_ApiBase)
            return str(path), tuple(int(part) for part in base().contents.version().decode().split("."))
    return None


@pytest.fixture
def old_library() -> tuple[str, str]:
    installed = system_library()
    if installed is None or not (1, 21) <= installed[1] < (1, 23):
        pytest.skip("the system has no ONNX Runtime 1.21 or 1.22 of its own (Debian 13: libonnxruntime1.21)")
    return installed[0], ".".join(map(str, installed[1]))


def opened(folder: Path, library: str) -> str:
    done = subprocess.run([sys.executable, "-c", OPEN, str(folder), library], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.rstrip("\n")


def test_opset_that_the_library_is_too_old_for(old_library: tuple[str, str], tmp_path: Path) -> None:
    path, version = old_library
    folder = write_bundle(tmp_path / "bundle")
    for graph in (folder / VARIANT).parent.glob("*.onnx"):
        model = onnx.load(graph, load_external_data=False)
        model.opset_import[0].version = 23
        onnx.save(model, graph)
    Row("newer_opset", "OK", "", VARIANT, {"/opset": 23}).damage(folder)
    expected = f"variant `cpu-fp32` needs ONNX Runtime 1.23 or newer for its opset 23, the loaded library is {version}"
    assert opened(folder, path) == f"REXIT_BACKEND_MISSING {expected}"


def test_opset_that_the_old_library_takes(old_library: tuple[str, str], tmp_path: Path) -> None:
    assert opened(write_bundle(tmp_path / "bundle"), old_library[0]) == "REXIT_OK"
