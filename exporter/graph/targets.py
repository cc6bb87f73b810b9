"""The targets of an export: a target and a precision name a list of passes over each graph.

A target's float32 graphs, as torch traces them at its opset, are its base (`Target.base`). They are compared with PyTorch;
variants are derived from them and compared with them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import onnx_ir as ir

from rexit.errors import InputError
from rexit.exporter.graph.accelerators import (
    allowed_operators,
    dequantize_blocks_int4,
    half,
    heads_without_gemm,
    mask_past_padding,
    quantize_dequantize_int8,
    to_opset_19,
    to_opset_21,
)
from rexit.exporter.graph.chain import draw, draw_for_scales
from rexit.exporter.graph.cpu.bfloat16 import bfloat16_attention, bfloat16_products
from rexit.exporter.graph.cpu.fuse_rows import fuse_rows
from rexit.exporter.graph.cpu.gather_rows_early import gather_rows_early
from rexit.exporter.graph.cpu.pack_weights import pack_weights
from rexit.exporter.graph.cpu.quantized_weights import (
    embedding_rows_bfloat16,
    embedding_rows_int8,
    quantize_linear_int8,
    quantize_weights_int4,
)
from rexit.exporter.graph.cpu.slate_attention import half_cache, slate_attention
from rexit.exporter.graph.linear_layers import fold_linear_weights
from rexit.exporter.graph.passes import tidy
from rexit.exporter.graph.smooth_linear_inputs import smooth_for_fixed_scales, smooth_linear_inputs
from rexit.exporter.options import EXACT
from rexit.exporter.prompt.builder import Prompt
from rexit.exporter.source import Source

Pass = Callable[[ir.Model], ir.Model]
DrawPrompts = Callable[[Source], list[Prompt]]


@dataclass(frozen=True)
class Gate:
    """Lowest correlation of log-odds with float32's (None: any) and largest loss, of AUC or expected NDCG, at every exit."""

    correlation: float | None
    drop: float


@dataclass(frozen=True)
class Target:
    """A row of `TARGETS`. `name` and `precision` name the variant.

    base: the float32 graphs that it is derived from; None for these graphs themselves.
    gate: None for a variant that is compared with PyTorch and has PyTorch's golden samples. With a gate they are its own.
    tolerance: largest distance from golden log-odds; with a gate, more if the model needs more, up to `cap`.
    sampled_prompts: draws prompts on which its passes need the inputs of linear layers; equal for all precisions that have any.
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
    sampled_prompts: DrawPrompts | None = None

    @property
    def variant(self) -> str:
        return f"{self.name}-{self.precision}"

    @property
    def past_padding(self) -> bool:
        """Whether the graphs mask padding behind the prefix."""
        return mask_past_padding in (self.base or self).passes


# Values of `Target.cap`: the largest distance between ways of running a graph. They guard against errors in the passes. A wrong
# mask or prefix in the base graphs shows at EXACT, as these are compared with PyTorch first.

_HALF = 0.1
"""float16 activations. A sum in another order sometimes rounds to another half, which changes later layers: measured 0.03 between
the ways of running SmolLM2-135M, 30 layers, not fine-tuned."""

_EIGHT_BITS = 1.0
"""8-bit activations, and bfloat16, whose numbers have 8 bits. Here another last bit selects another of few numbers: measured 0.49
between the ways of running the same model in int8, 0.54 between rexit's kernels and ONNX Runtime's; on the demo's trained model
0.0008."""

# Opset 23 has Attention, RMSNormalization and RotaryEmbedding, 6-15 % faster on ONNX Runtime's CPU than their decompositions.
_CPU = Target("cpu", "fp32", "onnxruntime", 23, "float32", "float32", (tidy, gather_rows_early, slate_attention, tidy), EXACT)

# GPUs have kernels for whole attentions in half. Not exported as a variant.
_CUDA = Target("cuda", "fp32", "onnxruntime", 23, "float32", "float32", (tidy, mask_past_padding), EXACT)

# A Jetson's TensorRT parses only the decompositions. Not exported as a variant: TensorRT has no fused float32 attention.
_PARTS = Target("tensorrt", "fp32", "tensorrt", 18, "float32", "float32", (tidy, mask_past_padding), EXACT)


def _cpu(
    precision: str, passes: tuple[Pass, ...], gate: Gate, tolerance: float, sampled_prompts: DrawPrompts | None = None
) -> Target:
    """A target with float32 between linear layers, and keys and values in half."""
    base = replace(_CPU, base=_CPU, cap=_EIGHT_BITS, cache_dtype="float16")
    return replace(base, precision=precision, passes=passes, gate=gate, tolerance=tolerance, sampled_prompts=sampled_prompts)


def _tensorrt(
    precision: str,
    opset: int,
    passes: tuple[Pass, ...],
    gate: Gate,
    tolerance: float,
    cap: float,
    sampled_prompts: DrawPrompts | None = None,
) -> Target:
    """A target with half between linear layers, and the passes that end all of them.

    Golden log-odds come from graphs with every half rounded. No backend reproduces them bit for bit: on a tiny random model ONNX
    Runtime's CPU is 0.006 (fp16), 0.04 (int8) and 0.035 (int4) away. The tolerances allow for that.
    """
    passes = (*passes, heads_without_gemm, tidy, allowed_operators)
    base = replace(_PARTS, base=_PARTS, hidden_dtype="float16", cache_dtype="float16", opset=opset, cap=cap)
    return replace(base, precision=precision, passes=passes, gate=gate, tolerance=tolerance, sampled_prompts=sampled_prompts)


_ALMOST_EXACT = Gate(correlation=0.999, drop=0.001)
_CLOSE = Gate(correlation=0.995, drop=0.001)
_ROUGH = Gate(correlation=None, drop=0.005)

TARGETS = (
    _CPU,
    _cpu(
        "bf16",
        (tidy, fold_linear_weights, bfloat16_products, embedding_rows_bfloat16, half_cache, bfloat16_attention, tidy),
        _ALMOST_EXACT,
        0.04,
    ),
    _cpu(
        "int8",
        (
            *(tidy, fold_linear_weights, smooth_linear_inputs, quantize_linear_int8, fuse_rows),
            *(embedding_rows_int8, half_cache, bfloat16_attention, tidy, pack_weights, tidy),
        ),
        _CLOSE,
        0.04,
        draw,
    ),
    _cpu("int4", (tidy, fold_linear_weights, quantize_weights_int4, embedding_rows_int8, half_cache, tidy), _ROUGH, 0.1),
    _tensorrt("fp16", 18, (tidy, half), _ALMOST_EXACT, 0.05, _HALF),
    _tensorrt(
        "int8",
        19,
        (tidy, to_opset_19, fold_linear_weights, smooth_for_fixed_scales, quantize_dequantize_int8, half),
        _CLOSE,
        0.1,
        _EIGHT_BITS,
        draw_for_scales,
    ),
    _tensorrt("int4", 21, (tidy, to_opset_21, fold_linear_weights, dequantize_blocks_int4, half), _ROUGH, 0.1, _HALF),
    replace(
        _CUDA,
        precision="fp16",
        hidden_dtype="float16",
        cache_dtype="float16",
        passes=(tidy, half, heads_without_gemm, tidy),
        tolerance=0.05,
        base=_CUDA,
        gate=_ALMOST_EXACT,
        cap=_HALF,
    ),
)


def find_target(name: str, precision: str) -> Target:
    """The target with this name and precision. Raises InputError, listing the targets."""
    for target in TARGETS:
        if (target.name, target.precision) == (name, precision):
            return target
    names = dict.fromkeys(target.name for target in TARGETS)
    precisions = {known: "|".join(target.precision for target in TARGETS if target.name == known) for known in names}
    known = ", ".join(f"--target {target} --precision {listed}" for target, listed in precisions.items())
    raise InputError(f"no target {name!r} with precision {precision!r}; known are: {known}")
