"""The targets of an export. A target and a precision name a list of passes over each graph, not a branch in the exporter.

The float32 graphs of a target, as torch traces them at its opset, are its base (`Target.base`): they are compared with PyTorch;
its variants are derived from them and compared with them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import onnx_ir as ir

from rexit.errors import InputError
from rexit.exporter.graph.activations import ACTIVATIONS, ACTIVATIONS_FOR_SCALES
from rexit.exporter.graph.observation import Observation
from rexit.exporter.graph.passes.allowed_operators import allowed_operators
from rexit.exporter.graph.passes.gather_rows_early import gather_rows_early
from rexit.exporter.graph.passes.opset import to_opset_19, to_opset_21
from rexit.exporter.graph.passes.slate_attention import slate_attention
from rexit.exporter.graph.passes.tidy import tidy
from rexit.exporter.graph.precision.dequantize_blocks_int4 import dequantize_blocks_int4
from rexit.exporter.graph.precision.embedding_rows import embedding_rows_int8
from rexit.exporter.graph.precision.fold_linear_weights import fold_linear_weights
from rexit.exporter.graph.precision.fuse_rows import fuse_rows
from rexit.exporter.graph.precision.half import half
from rexit.exporter.graph.precision.quantize_dequantize import quantize_dequantize_fp8, quantize_dequantize_int8
from rexit.exporter.graph.precision.quantize_linear_int8 import quantize_linear_int8
from rexit.exporter.graph.precision.quantize_weights_int4 import quantize_weights_int4
from rexit.exporter.graph.precision.smooth_linear_inputs import smooth_for_fixed_scales, smooth_linear_inputs
from rexit.exporter.graph.precision.stored_cache import half_cache, int8_cache
from rexit.exporter.options import EXACT

Pass = Callable[[ir.Model], ir.Model]


@dataclass(frozen=True)
class Gate:
    """The lowest correlation of log-odds with float32's (None: any) and the largest loss of AUC, both at every exit."""

    correlation: float | None
    auc_drop: float


@dataclass(frozen=True)
class Target:
    """One row of the table below; `name` and `precision` also name the variant.

    base: the float32 graphs it is derived from; None for those graphs themselves.
    gate: None for a variant that is compared with PyTorch itself, whose golden samples are PyTorch's. With a gate they are the
    variant's own. tolerance: how far log-odds may be from the golden ones; with a gate, more if the model needs more, up to
    `cap`.
    observation: what its passes need to know about the inputs of linear layers; the same for all precisions that have one.
    """

    name: str
    precision: str
    backend: str
    opset: int
    hidden_dtype: str
    cache_dtype: str
    passes: tuple[Pass, ...]
    tolerance: float
    base: Target | None = None
    gate: Gate | None = None
    cap: float | None = None
    observation: Observation | None = None

    @property
    def variant(self) -> str:
        return f"{self.name}-{self.precision}"


# Values of `Target.cap`: how far apart the ways of running one graph may be at all. They guard against errors in the passes. A
# wrong mask or prefix in the graphs they start from shows at EXACT, since those are compared with PyTorch first.

_HALF = 0.1
"""float16 activations. A sum in another order now and then rounds to another half, and so do the layers after it: 0.03 was seen
between the ways of running SmolLM2-135M, 30 layers, not fine-tuned."""

_EIGHT_BITS = 1.0
"""8-bit activations. Here a different last bit becomes a different one of few numbers: on the same model 0.49 was seen between
the ways of running, 0.54 between rexit's kernels and ONNX Runtime's. On the demo's model, which is trained, 0.0008."""

# Opset 23 has Attention, RMSNormalization and RotaryEmbedding, 6-15 % faster on ONNX Runtime's CPU than their decompositions.
_CPU = Target("cpu", "fp32", "onnxruntime", 23, "float32", "float32", (tidy, gather_rows_early, slate_attention, tidy), EXACT)

# GPUs have kernels for whole attentions in half. Not exported as a variant.
_CUDA = Target("cuda", "fp32", "onnxruntime", 23, "float32", "float32", (tidy,), EXACT)

# A Jetson's TensorRT parses only the decompositions. Not exported as a variant: TensorRT has no fused float32 attention.
_PARTS = Target("tensorrt", "fp32", "tensorrt", 18, "float32", "float32", (tidy,), EXACT)


def _tensorrt(
    precision: str,
    opset: int,
    passes: tuple[Pass, ...],
    gate: Gate,
    tolerance: float,
    cap: float,
    observation: Observation | None = None,
) -> Target:
    """A target with half between the linear layers; all end with the same passes.

    Golden log-odds come from graphs with every half rounded, which no backend reproduces bit for bit: ONNX Runtime's CPU is 0.006
    (fp16), 0.04 (int8), 0.035 (int4) and 0.15 (fp8) away on a tiny random model. The tolerances allow for that.
    """
    passes = (*passes, tidy, allowed_operators)
    return Target(
        "tensorrt", precision, "tensorrt", opset, "float16", "float16", passes, tolerance, _PARTS, gate, cap, observation
    )


TARGETS = (
    _CPU,
    Target(
        "cpu",
        "int8",
        "onnxruntime",
        23,
        "float32",
        "float16",
        (tidy, fold_linear_weights, smooth_linear_inputs, quantize_linear_int8, fuse_rows, embedding_rows_int8, half_cache, tidy),
        0.04,
        _CPU,
        Gate(correlation=0.995, auc_drop=0.001),
        _EIGHT_BITS,
        ACTIVATIONS,
    ),
    Target(
        "cpu",
        "int4",
        "onnxruntime",
        23,
        "float32",
        "float16",
        (tidy, fold_linear_weights, quantize_weights_int4, embedding_rows_int8, half_cache, tidy),
        0.1,
        _CPU,
        Gate(correlation=None, auc_drop=0.005),
        _EIGHT_BITS,
    ),
    _tensorrt("fp16", 18, (tidy, half), Gate(correlation=0.999, auc_drop=0.001), 0.05, _HALF),
    _tensorrt(
        "int8",
        19,
        (tidy, to_opset_19, fold_linear_weights, smooth_for_fixed_scales, quantize_dequantize_int8, half),
        Gate(correlation=0.995, auc_drop=0.001),
        0.1,
        _EIGHT_BITS,
        ACTIVATIONS_FOR_SCALES,
    ),
    _tensorrt(
        "int4",
        21,
        (tidy, to_opset_21, fold_linear_weights, dequantize_blocks_int4, half),
        Gate(correlation=None, auc_drop=0.005),
        0.1,
        _HALF,
    ),
    _tensorrt(
        "fp8",
        19,
        (tidy, to_opset_19, fold_linear_weights, quantize_dequantize_fp8, half),
        Gate(correlation=0.995, auc_drop=0.001),
        0.3,
        _EIGHT_BITS,
        ACTIVATIONS_FOR_SCALES,
    ),
    Target(
        "cuda",
        "fp16",
        "onnxruntime",
        23,
        "float16",
        "float16",
        (tidy, half, tidy),
        0.05,
        _CUDA,
        Gate(0.999, auc_drop=0.001),
        _HALF,
    ),
)


CACHES = ("float16", "int8")
"""What keys and values between passes can be stored in, where a target has a choice."""


def with_cache(target: Target, dtype: str) -> Target:
    """The target with keys and values in `dtype`, if it has a choice."""
    if dtype == "float16" or half_cache not in target.passes:
        return target
    return replace(target, cache_dtype=dtype, passes=tuple(int8_cache if one is half_cache else one for one in target.passes))


def find_target(name: str, precision: str) -> Target:
    """The target with this name and precision. Raises InputError, listing what there is."""
    for target in TARGETS:
        if (target.name, target.precision) == (name, precision):
            return target
    there = ", ".join(f"--target {name} --precision {'|'.join(of)}" for name, of in _precisions().items())
    raise InputError(f"no target {name!r} with precision {precision!r}; there is: {there}")


def _precisions() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for target in TARGETS:
        found.setdefault(target.name, []).append(target.precision)
    return found
