"""TensorRT-RTX and the machine fail; the engines that were there before stay as they were."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from builders.bundles.bundle_files import contents, refresh
from builders.bundles.engines import engines_of
from builders.bundles.variants import TENSORRT
from rexit.errors import BackendError, InputError
from rexit.exporter.engine.compile import compile_engines
from running.full_disk import largest_file


def unknown_node(model: onnx.ModelProto) -> None:
    next(node for node in model.graph.node if node.op_type == "Softmax").op_type = "Softmaxx"


def another_type(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16


def assert_refused(bundle: Path, error: type[Exception], python: str | None = None) -> str:
    before = contents(engines_of(bundle))
    assert before
    with pytest.raises(error) as caught:
        compile_engines(bundle, compute_capability="8.6", python=python, force=True)
    assert contents(engines_of(bundle)) == before
    assert sorted(p.name for p in engines_of(bundle).iterdir()) == sorted({Path(name).parts[0] for name in before})
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.medium
@pytest.mark.parametrize(
    ("change", "reason"), [(unknown_node, r".*Softmaxx"), (another_type, r".*must have same input types.*Half")]
)
def test_a_graph_that_the_compiler_does_not_take(compiled: Path, change: Callable[[onnx.ModelProto], None], reason: str) -> None:
    path = compiled / "variants" / TENSORRT / "segment-1.onnx"
    model = onnx.load(path, load_external_data=False)
    change(model)
    onnx.save(model, path)
    refresh(compiled, TENSORRT)
    text = assert_refused(compiled, BackendError)
    assert re.match(rf"{TENSORRT}, segment 1 \(segment-1\.onnx\): TensorRT-RTX .* cannot build it: {reason}", text)


def test_input_that_the_graph_has_not(compiled: Path) -> None:
    part = compiled / "variants" / TENSORRT / "variant.json"
    part.write_text(part.read_text().replace('"owner"', '"proprietor"'))
    refresh(compiled, TENSORRT)
    assert "the graph's inputs are ['ids', 'owner'" in assert_refused(compiled, BackendError)


def test_out_of_memory(compiled: Path, tmp_path: Path) -> None:
    """In a real address space that is large enough to start the compiler and too small to build."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nulimit -v 450000\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    text = assert_refused(compiled, BackendError, str(python))
    assert "segment 0" in text and "probably out of memory: stop other programs, add swap, or export with more exits" in text


@pytest.mark.medium
@pytest.mark.parametrize(("name", "memory"), [("KILL", True), ("SEGV", False)])
def test_builder_that_dies(compiled: Path, tmp_path: Path, name: str, memory: bool) -> None:
    """The kernel's out-of-memory killer sends SIGKILL."""
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\nrequest=$(cat)\ncase "$request" in *\'"do": "build"\'*segment-1.plan*) kill -{name} $$;; esac\n'
        f'printf %s "$request" | exec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    text = assert_refused(compiled, BackendError, str(python))
    assert f"segment 1 (segment-1.onnx): the builder ended by SIG{name} at " in text and " MB" in text
    assert ("probably out of memory" in text) == memory


def test_full_disk(compiled: Path) -> None:
    with largest_file(100_000):
        text = assert_refused(compiled, InputError)
    assert "segment 0 (segment-0.onnx): the plan cannot be written: " in text and "File too large" in text


@pytest.mark.medium
def test_a_signal(compiled: Path) -> None:
    """A real one, on the command line, while a segment is being built; the builder ends too."""
    before = contents(engines_of(compiled))
    command = [sys.executable, "-c", "from rexit.doors.cli import main; main()", "compile", str(compiled)]
    process = subprocess.Popen(
        [*command, "--compute-capability", "8.6", "--force"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not list(engines_of(compiled).glob(".*/new/segment-0.plan")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    builders = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.terminate()
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 143 and output == ""
    assert errors == "rexit: interrupted; nothing was left half-written\n"
    assert contents(engines_of(compiled)) == before
    assert builders
    while any(map(running, builders)):  # one started in that very moment dies with its parent, which nobody waits for
        assert time.monotonic() < deadline
        time.sleep(0.005)


def running(pid: str) -> bool:
    """Whether the process runs; False for a zombie, whose parent, perhaps init, has not waited for it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
