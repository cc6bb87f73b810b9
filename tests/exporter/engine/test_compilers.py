"""Which compiler builds for which GPU. TensorRT and the GPU are doubles, TensorRT-RTX is the real one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from doubles.compiler import Doubles
from rexit.errors import BackendError, InputError
from rexit.exporter.engine import compile as compilers
from rexit.exporter.engine.compile import find_compiler
from rexit.format.bundle.variant import Gpu


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def doubles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Doubles:
    return Doubles(tmp_path, monkeypatch)


@pytest.fixture
def elsewhere(tmp_path: Path) -> str:
    """A Python that has no compiler."""
    return script(tmp_path / "bare-python", f'exec {sys.executable} -S "$@"')


def test_rtx_without_a_gpu_builds_for_the_capability_asked_for() -> None:
    compiler, target = find_compiler(None, "8.6")
    assert (compiler.name, compiler.python, compiler.standalone) == ("tensorrt_rtx", sys.executable, True)
    assert target == Gpu(None, "8.6")
    assert {"8.6", "8.9", "12.0"} <= set(compiler.targets) and compiler.title.startswith("TensorRT-RTX ")


@pytest.mark.parametrize(
    ("capability", "error", "message"),
    [
        (None, BackendError, r"^no GPU in this machine: TensorRT-RTX .* needs --compute-capability, one of 7\.5, .*12\.1$"),
        ("8.7", BackendError, r"does not compile for 8\.7, only for 7\.5, 8\.0, 8\.6"),  # a Jetson
        ("11.0", BackendError, r"does not compile for 11\.0, only for"),
        *((text, InputError, r"expected a number like 8\.6") for text in ("86", "sm86", "8.", "8.6.1", "")),
    ],
)
def test_refused_without_a_gpu(capability: str | None, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        find_compiler(None, capability)


def test_tensorrt_builds_for_the_local_gpu(doubles: Doubles) -> None:
    doubles.add_gpu()
    compiler, target = find_compiler(None, None)
    assert (compiler.title, compiler.standalone, target) == ("TensorRT 10.3.0", False, Gpu("Orin", "8.7"))
    assert find_compiler(None, "8.7")[1] == target


def test_of_two_compilers_the_one_that_can(doubles: Doubles) -> None:
    doubles.add_gpu()
    assert find_compiler(None, "8.6")[0].name == "tensorrt_rtx"


def test_refused_for_the_local_gpu(doubles: Doubles) -> None:
    doubles.add_gpu()
    with pytest.raises(BackendError, match=r"Orin \(8\.7\), not for 11\.0; TensorRT-RTX .* does not compile for 11\.0"):
        find_compiler(None, "11.0")


def test_the_systems_python_is_asked_second(elsewhere: str, monkeypatch: pytest.MonkeyPatch) -> None:
    here = sys.executable
    monkeypatch.setattr(sys, "executable", elsewhere)
    monkeypatch.setattr(compilers, "SYSTEM_PYTHON", here)
    assert find_compiler(None, "8.6")[0].python == here


def test_no_compiler_anywhere(elsewhere: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", elsewhere)
    monkeypatch.setattr(compilers, "SYSTEM_PYTHON", "/none/python3")
    with pytest.raises(BackendError) as caught:
        find_compiler(None, None)
    text = str(caught.value)
    assert "No module named 'tensorrt'" in text and "No module named 'tensorrt_rtx'" in text and "\n" not in text
    assert text.endswith("on a Jetson, name JetPack's Python with --python; elsewhere, `pip install 'rexit[tensorrt-rtx]'`")


def test_bindings_that_break_when_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As NVIDIA's stub wheels do, and a library that is not there."""
    for name in ("tensorrt", "tensorrt_rtx"):
        (tmp_path / f"{name}.py").write_text("raise OSError('libnvinfer.so.10: cannot open shared object file')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(BackendError, match=r"OSError: libnvinfer\.so\.10: cannot open shared object file"):
        find_compiler(sys.executable, "8.6")


def test_binding_that_takes_the_process_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tensorrt.py").write_text("import os; os.abort()")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(BackendError, match=r"cannot be run as a Python, it ended by SIGABRT"):
        find_compiler(sys.executable, "8.6")


def test_python_that_is_none() -> None:
    with pytest.raises(BackendError, match="/bin/cat: cannot be run as a Python"):
        find_compiler("/bin/cat", "8.6")
    with pytest.raises(InputError, match="/none/python: cannot be run: No such file or directory"):
        find_compiler("/none/python", "8.6")
