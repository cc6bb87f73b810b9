"""Finds installed TensorRT compilers and the GPUs they can build for, by runs of `engine_builder.py` in a process."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rexit.bundle.variant import BUILDERS, Gpu
from rexit.errors import BackendError, InputError

SCRIPT = Path(__file__).with_name("engine_builder.py")


@dataclass(frozen=True)
class Ended:
    """The end of a builder: exit code (-N for signal N), last line of stderr, peak memory according to the kernel."""

    code: int
    last_line: str
    peak_bytes: int

    def __str__(self) -> str:
        names = {s.value: s.name for s in signal.Signals}
        how = f"with exit code {self.code}"
        if self.code < 0:
            how = f"by {names.get(-self.code, f'signal {-self.code}')} at {self.peak_bytes / 1e6:.0f} MB"
        return f"{how}: {self.last_line}" if self.last_line else how

    @property
    def out_of_memory(self) -> bool:
        """Whether it probably ran out of memory: then the kernel kills, C++ aborts, or Python raises MemoryError."""
        return self.code in (-signal.SIGKILL, -signal.SIGABRT) or "MemoryError" in self.last_line


class BuilderProcess:
    """A process of `engine_builder.py` for one request. Leaving the `with` block ends it."""

    def __init__(self, python: str, request: Mapping[str, Any]) -> None:
        """python: the interpreter. Raises InputError if it cannot be run."""
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (closed in __exit__)
        self._ended: Ended | None = None
        with tempfile.TemporaryFile() as stdin:
            stdin.write(json.dumps(request).encode())
            stdin.seek(0)
            try:
                # A session of its own: Ctrl-C reaches rexit alone, which kills the builder even inside C++ code.
                self._process = subprocess.Popen(
                    [python, str(SCRIPT)], stdin=stdin, stdout=subprocess.PIPE, stderr=self._stderr, start_new_session=True
                )
            except OSError as exc:
                self._stderr.close()
                raise InputError(f"{python}: cannot be run: {exc.strerror}") from exc

    def __enter__(self) -> BuilderProcess:
        return self

    def __exit__(self, *_: object) -> None:
        if self._ended is None:
            # Not Popen.kill, which would reap a process that has ended: wait() would find none.
            os.kill(self._process.pid, signal.SIGKILL)
            self.wait()
        self._stderr.close()

    def events(self) -> Iterator[dict[str, Any]]:
        """Yields events until the builder ends or prints something else."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                event = json.loads(line)
            except ValueError:
                return
            if not isinstance(event, dict) or "event" not in event:
                return
            yield event

    def wait(self) -> Ended:
        """Waits for the builder's end."""
        if self._ended is None:
            assert self._process.stdout is not None
            self._process.stdout.close()  # a builder that still writes gets SIGPIPE
            _, status, usage = os.wait4(self._process.pid, 0)  # Popen.wait does not report memory
            self._process.returncode = os.waitstatus_to_exitcode(status)
            self._stderr.seek(0)
            lines = self._stderr.read().decode(errors="replace").splitlines()
            last = next((line.strip() for line in reversed(lines) if line.strip()), "")
            self._ended = Ended(self._process.returncode, last, usage.ru_maxrss * 1024)
        return self._ended


SYSTEM_PYTHON = "/usr/bin/python3"


@dataclass(frozen=True)
class Compiler:
    """A compiler in a Python. targets: compute capabilities it compiles for without a GPU; empty: this machine's GPU only.
    gpu: the one in this machine."""

    python: str
    name: str
    version: str
    targets: tuple[str, ...]
    gpu: Gpu | None

    @property
    def standalone(self) -> bool:
        """Whether it compiles without the target GPU: TensorRT-RTX does, TensorRT does not."""
        return bool(self.targets)

    @property
    def title(self) -> str:
        """Name and version, for messages."""
        return f"{'TensorRT-RTX' if self.standalone else 'TensorRT'} {self.version}"


def find_compiler(python: str | None, capability: str | None) -> tuple[Compiler, Gpu]:
    """The first compiler that can build for a compute capability, or for this machine's GPU; and what it builds for.

    1. Without `python`, this Python comes first, then the system's.
    2. In each Python TensorRT comes before TensorRT-RTX.
    3. TensorRT builds only for this machine's GPU; TensorRT-RTX for `capability`, by default this machine's GPU's.

    Args:
        python: an interpreter with a compiler's bindings.
        capability: e.g. "8.6".

    Raises:
        InputError: an argument is invalid.
        BackendError: no compiler can build, with the reason of each.
    """
    if capability is not None and not re.fullmatch(r"\d+\.\d+", capability):
        raise InputError(f"compute capability {capability!r}, expected a number like 8.6")
    pythons = [python] if python else [p for p in dict.fromkeys((sys.executable, SYSTEM_PYTHON)) if Path(p).exists()]
    refused: list[str] = []
    missing: list[str] = []
    for interpreter in pythons:
        compilers, errors = _probe(interpreter)
        missing += errors
        for compiler in compilers:
            target = _target(compiler, capability)
            if isinstance(target, Gpu):
                return compiler, target
            refused.append(target)
    if refused:
        raise BackendError("; ".join(dict.fromkeys(refused)))  # two Pythons may have the same compiler
    raise BackendError(
        f"no TensorRT compiler ({'; '.join(missing)}): on a Jetson, name JetPack's Python with --python; "
        "elsewhere, `pip install 'rexit[tensorrt-rtx]'`"
    )


def _target(compiler: Compiler, capability: str | None) -> Gpu | str:
    """What this compiler builds for, or the reason why it cannot."""
    gpu = compiler.gpu
    if not compiler.standalone:
        if gpu is None:
            return f"{compiler.title} builds only for this machine's GPU, and there is none"
        if capability not in (None, gpu.compute_capability):
            own = f"{gpu.name} ({gpu.compute_capability})"
            return f"{compiler.title} builds only for this machine's GPU, {own}, not for {capability}"
        return gpu
    listed = ", ".join(compiler.targets)
    target = gpu if capability is None else Gpu(None, capability)
    if target is None:
        return f"no GPU in this machine: {compiler.title} needs --compute-capability, one of {listed}"
    if target.compute_capability not in compiler.targets:
        whose = "" if target.name is None else f" (of {target.name})"
        return f"{compiler.title} does not compile for {target.compute_capability}{whose}, only for {listed}"
    return target


def _probe(python: str) -> tuple[list[Compiler], list[str]]:
    """A Python's compilers, and a line for each that it lacks. Raises InputError if the Python cannot be run."""
    with BuilderProcess(python, {"do": "probe", "builders": list(BUILDERS)}) as child:
        probe = next((event for event in child.events() if event["event"] == "probe"), None)
        ended = child.wait()
    if probe is None:
        return [], [f"{python}: cannot be run as a Python, it ended {ended}"]
    gpu = Gpu(**probe["gpu"]) if probe["gpu"] else None
    compilers = [
        Compiler(python, builder["name"], builder["version"], tuple(builder["compute_capabilities"] or ()), gpu)
        for builder in probe["builders"]
        if "error" not in builder
    ]
    return compilers, [f"{python}: {builder['error']}" for builder in probe["builders"] if "error" in builder]
