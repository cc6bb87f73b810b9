"""An ONNX Runtime that is too old for a variant's graphs: said before it is asked to load them.

A process has one ONNX Runtime, so the bundle is opened in a process of its own. The old one is the system's: Debian 13 has 1.21.
"""

from __future__ import annotations

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
from rexit.errors import BackendError
try:
    runtime.open(sys.argv[1], library=sys.argv[2])
except BackendError as error:
    print(error.status, error)
"""
OLD = sorted(Path("/usr/lib").glob("*-linux-gnu/libonnxruntime.so.1.2[12].*"))


@pytest.mark.skipif(not OLD, reason="the system has no ONNX Runtime 1.21 or 1.22 of its own (Debian 13: libonnxruntime1.21)")
def test_opset_that_the_library_is_too_old_for(tmp_path: Path) -> None:
    folder, version = write_bundle(tmp_path / "bundle"), OLD[0].name.partition(".so.")[2]
    for graph in (folder / VARIANT).parent.glob("*.onnx"):
        model = onnx.load(graph, load_external_data=False)
        model.opset_import[0].version = 23
        onnx.save(model, graph)
    Row("newer_opset", "OK", "", VARIANT, {"/opset": 23}).damage(folder)
    done = subprocess.run([sys.executable, "-c", OPEN, folder, OLD[0]], capture_output=True, text=True)
    expected = f"variant `cpu-fp32` needs ONNX Runtime 1.23 or newer for its opset 23, the loaded library is {version}"
    assert done.stdout == f"REXIT_BACKEND_MISSING {expected}\n", done.stderr
