"""Real engines from graphs, by TensorRT-RTX: it compiles for a GPU that is not there. What it built is told by its log alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorrt_rtx as trt

PROFILES = (
    {"T": (1, 30, 64), "P": (0, 0, 0), "N": (1, 1, 64)},
    {"T": (1, 20, 64), "P": (1, 30, 64), "N": (1, 4, 64)},
)
"""As `rexit compile` makes them: least, usual and most of each dynamic size, for a prefix and behind one."""


@dataclass(frozen=True)
class Engine:
    """layers, inputs: one line of the compiler's log for each layer of the engine, of all profiles, and each input; bytes: of
    the plan."""

    layers: list[str]
    inputs: list[str]
    bytes: int

    def count(self, *words: str) -> int:
        return sum(all(word in line for word in words) for line in self.layers)


class RefusedError(Exception):
    """The parser's or the builder's errors, one a line."""


class _Log(trt.ILogger):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[Any, str]] = []

    def log(self, severity: Any, message: str) -> None:
        self.lines.append((severity, message))

    def errors(self) -> str:
        return "\n".join(text for severity, text in self.lines if severity <= trt.ILogger.ERROR)


def build(graph: Path, capability: str = "SM86") -> Engine:
    """Raises RefusedError."""
    log = _Log()
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(graph)):
        raise RefusedError("\n".join(str(parser.get_error(n)) for n in range(parser.num_errors)))
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, capability), 0)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    for sizes in PROFILES:
        profile = builder.create_optimization_profile()
        for n in range(network.num_inputs):
            entry = network.get_input(n)
            name = entry.name
            size = "N" if name == "rows" else "P" if name.startswith("past_") else "T"
            shapes = [[least if d == -1 else d for d in entry.shape] for least in sizes[size]]
            profile.set_shape(name, *shapes)
        config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise RefusedError(log.errors())
    lines = [line for _, text in log.lines for line in text.splitlines()]
    layers = [line for line in lines if "LayerType:" in line]
    return Engine(layers, [line for line in lines if "IOMode: Input" in line], plan.nbytes)
