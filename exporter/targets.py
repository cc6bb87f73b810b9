"""What can be exported for. A target and a precision name a list of passes over each graph, not a branch in the exporter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

from rexit.errors import InputError
from rexit.exporter.passes.embedding_rows import embedding_rows_int8
from rexit.exporter.passes.fold_linear_weights import fold_linear_weights
from rexit.exporter.passes.gather_rows_early import gather_rows_early
from rexit.exporter.passes.quantize_linear_int8 import quantize_linear_int8
from rexit.exporter.passes.quantize_weights_int4 import quantize_weights_int4
from rexit.exporter.passes.split_attention import split_attention
from rexit.exporter.passes.tidy import tidy
from rexit.exporter.quality import Gate

Pass = Callable[[ir.Model], ir.Model]


@dataclass(frozen=True)
class Target:
    """One row of the table below; `name` and `precision` also name the variant.

    gate: None for a variant that is held against PyTorch itself; its golden samples are PyTorch's. With a gate they are the
    variant's own. tolerance: how far log-odds may be from the golden ones; with a gate, more where the model needs more.
    """

    name: str
    precision: str
    backend: str
    opset: int
    hidden_dtype: str
    cache_dtype: str
    passes: tuple[Pass, ...]
    tolerance: float
    gate: Gate | None = None

    @property
    def variant(self) -> str:
        return f"{self.name}-{self.precision}"


TARGETS = (
    # Opset 23 has Attention, RMSNormalization and RotaryEmbedding, 6-15 % faster on ONNX Runtime's CPU than their parts.
    Target("cpu", "fp32", "onnxruntime", 23, "float32", "float32", (tidy, gather_rows_early, split_attention, tidy), 1e-4),
    Target(
        "cpu",
        "int8",
        "onnxruntime",
        23,
        "float32",
        "float32",
        (tidy, fold_linear_weights, quantize_linear_int8, embedding_rows_int8, tidy),
        0.02,
        Gate(correlation=0.995, auc_drop=0.001),
    ),
    Target(
        "cpu",
        "int4",
        "onnxruntime",
        23,
        "float32",
        "float32",
        (tidy, fold_linear_weights, quantize_weights_int4, embedding_rows_int8, tidy),
        0.05,
        Gate(correlation=None, auc_drop=0.005),
    ),
)

REFERENCE = TARGETS[0]
"""What every other variant is held against."""


def find_target(name: str, precision: str) -> Target:
    """Raises InputError, listing what there is."""
    for target in TARGETS:
        if (target.name, target.precision) == (name, precision):
            return target
    there = ", ".join(f"--target {target.name} --precision {target.precision}" for target in TARGETS)
    raise InputError(f"no target {name!r} with precision {precision!r}; there is: {there}")
