"""Finds installed TensorRT compilers and the GPUs they can build for."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

from rexit.bundle.engine import BUILDERS
from rexit.errors import BackendError, InputError
from rexit.exporter.engine.builder_process import BuilderProcess

SYSTEM_PYTHON = "/usr/bin/python3"


@dataclass(frozen=True)
class Gpu:
    """The GPU in this machine; compute_capability: e.g. "8.7"."""

    name: str
    compute_capability: str


@dataclass(frozen=True)
class Compiler:
    """A compiler in a Python. targets: compute capabilities it compiles for without a GPU; empty: this machine's GPU only."""

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


@dataclass(frozen=True)
class BuildTarget:
    """What engines are built for. gpu: the name of this machine's GPU; None for an explicit compute capability."""

    compute_capability: str
    gpu: str | None


def find_compiler(python: str | None, capability: str | None) -> tuple[Compiler, BuildTarget]:
    """The first compiler that can build for a compute capability, or for this machine's GPU.

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
            if isinstance(target, BuildTarget):
                return compiler, target
            refused.append(target)
    if refused:
        raise BackendError("; ".join(dict.fromkeys(refused)))  # two Pythons may have the same compiler
    raise BackendError(
        f"no TensorRT compiler ({'; '.join(missing)}): on a Jetson, name JetPack's Python with --python; "
        "elsewhere, `pip install 'rexit[tensorrt-rtx]'`"
    )


def _target(compiler: Compiler, capability: str | None) -> BuildTarget | str:
    """The build target, or the reason why this compiler cannot build."""
    gpu = compiler.gpu
    if not compiler.standalone:
        if gpu is None:
            return f"{compiler.title} builds only for this machine's GPU, and there is none"
        if capability not in (None, gpu.compute_capability):
            own = f"{gpu.name} ({gpu.compute_capability})"
            return f"{compiler.title} builds only for this machine's GPU, {own}, not for {capability}"
        return BuildTarget(gpu.compute_capability, gpu.name)
    listed = ", ".join(compiler.targets)
    if capability is not None:
        target = BuildTarget(capability, None)
    elif gpu is not None:
        target = BuildTarget(gpu.compute_capability, gpu.name)
    else:
        return f"no GPU in this machine: {compiler.title} needs --compute-capability, one of {listed}"
    if target.compute_capability not in compiler.targets:
        whose = "" if target.gpu is None else f" (of {target.gpu})"
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
