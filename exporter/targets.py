"""What can be exported for. A target and a precision name a list of passes over each graph, not a branch in the exporter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

from rexit.errors import InputError
from rexit.exporter.passes.tidy import tidy

Pass = Callable[[ir.Model], ir.Model]


@dataclass(frozen=True)
class Target:
    """One row of the table below; `name` and `precision` also name the variant."""

    name: str
    precision: str
    backend: str
    opset: int
    hidden_dtype: str
    cache_dtype: str
    passes: tuple[Pass, ...]

    @property
    def variant(self) -> str:
        return f"{self.name}-{self.precision}"


TARGETS = (
    # Opset 23 has Attention, RMSNormalization and RotaryEmbedding, 6-15 % faster on ONNX Runtime's CPU than their parts.
    Target("cpu", "fp32", "onnxruntime", 23, "float32", "float32", (tidy,)),
)


def find_target(name: str, precision: str) -> Target:
    """Raises InputError, listing what there is."""
    for target in TARGETS:
        if (target.name, target.precision) == (name, precision):
            return target
    there = ", ".join(f"--target {target.name} --precision {target.precision}" for target in TARGETS)
    raise InputError(f"no target {name!r} with precision {precision!r}; there is: {there}")
