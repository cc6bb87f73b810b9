"""From a segment to its ONNX graph on disk: `segment-K.onnx`, with weights in `segment-K.onnx.data`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx_ir as ir
import torch

from rexit.errors import CheckpointError
from rexit.exporter.graph.accelerators import VECTORS
from rexit.exporter.graph.chain import Activations
from rexit.exporter.graph.linear_layers import SAMPLE
from rexit.exporter.graph.segment import SegmentModule
from rexit.exporter.graph.targets import Target
from rexit.exporter.libraries import first_line, quiet
from rexit.format import bundle

# Sizes of the example that is traced: distinct primes, so that no two dimensions are unified.
_TOKENS, _PREFIX, _ROWS, _VECTORS = 17, 11, 3, 5


def export_segment(segment: SegmentModule, k: int, target: Target, folder: Path) -> bundle.Segment:
    """Exports segment k. T (tokens), P (prefix, from 0) and N (rows) stay dynamic. The same segment gives the same bytes.

    Args:
        segment: the module to trace.
        k: the segment's number, from 0.
        target: a base target.
        folder: the folder to write.

    Returns:
        The segment's description for variant.json.

    Raises:
        CheckpointError: the model cannot be traced.
        OSError: the folder cannot be written.
    """
    described = describe(segment, k, target)
    _write(trace(segment, described, target.opset), described, target, folder)
    return described


def derive_segment(
    described: bundle.Segment,
    source: Path,
    target: Target,
    folder: Path,
    activations: Activations | None = None,
    on_pass: Callable[[str], None] = lambda _: None,
) -> bundle.Segment:
    """Derives a variant's segment from its base by the target's passes.

    Args:
        described: description of the base's segment.
        source: the folder with the base's graphs.
        target: the target.
        folder: the folder to write.
        activations: rows of this segment's linear inputs; read only if the target samples prompts.
        on_pass: called with each pass's name before it runs.

    Returns:
        The segment's description for variant.json.

    Raises:
        CheckpointError: a pass cannot handle the model; names variant and graph.
        OSError: the folder cannot be written.
    """
    described = msgspec.structs.replace(described, hidden_dtype=target.hidden_dtype, cache_dtype=target.cache_dtype)
    model = ir.load(source / described.graph)
    if activations and target.sampled_prompts:
        for value in (*model.graph.inputs, *(value for node in model.graph for value in node.outputs)):
            if value.name in activations:
                value.meta[SAMPLE] = activations[value.name]
    _write(model, described, target, folder, on_pass)
    return described


def _write(
    model: ir.Model, described: bundle.Segment, target: Target, folder: Path, on_pass: Callable[[str], None] = lambda _: None
) -> None:
    try:
        for run in target.passes:
            on_pass(run.__name__)
            model = run(model)
    except CheckpointError as exc:
        raise CheckpointError(f"{target.variant}, {described.graph}: {exc}") from exc
    ir.save(model, folder / described.graph, external_data=described.weights)


def trace(segment: SegmentModule, described: bundle.Segment, opset: int) -> ir.Model:
    """The graph as torch exports it, with named inputs, outputs and weights. Raises CheckpointError."""
    layers = segment.end - segment.begin
    entry = (
        torch.randn(_TOKENS, segment.hidden_size)
        if segment.begin
        else torch.arange(_TOKENS, dtype=torch.int64) % segment.vocab_size
    )
    vectors = [] if segment.vocabulary is None else [torch.randn(_VECTORS, segment.hidden_size)]
    keys, values = ([torch.randn(segment.kv_heads, _PREFIX, segment.head_dim) for _ in range(layers)] for _ in range(2))
    groups = torch.arange(_TOKENS) * _ROWS // _TOKENS
    rows = torch.tensor([5, 11, 16])
    t, p, n, r = (torch.export.Dim(name, min=2, max=1 << 24) for name in ("T", "P", "N", "R"))
    shapes = {
        **{name: {0: t} for name in ("x", "positions", "groups")},
        "rows": {0: n},
        **({"vectors": {0: r}} if vectors else {}),
        "past_keys": [{1: p}] * layers,
        "past_values": [{1: p}] * layers,
    }
    try:
        with quiet():
            program: Any = torch.onnx.export(
                segment,
                (entry, torch.arange(_TOKENS) + _PREFIX, groups, rows, *vectors, keys, values),
                dynamo=True,
                opset_version=opset,
                verbose=False,
                input_names=_names(described.inputs),
                output_names=_names(described.outputs),
                dynamic_shapes=shapes,
            )
    except Exception as exc:
        cause = exc.__cause__ or exc
        raise CheckpointError(
            f"layers {segment.begin} to {segment.end} cannot be exported: {type(cause).__name__}: {first_line(cause)}"
        ) from exc
    model: ir.Model = program.model
    _name_transposed(model, segment)
    return model


def _name_transposed(model: ir.Model, segment: SegmentModule) -> None:
    """Restores the names of weights that torch's exporter stored transposed, so that errors can name them."""
    unnamed = [value for value in model.graph.initializers.values() if value.shape is not None and len(value.shape) == 2]
    for name, parameter in segment.named_parameters():
        if parameter.ndim == 2 and name not in model.graph.initializers:
            expected = parameter.detach().numpy().T
            for n, value in enumerate(unnamed):
                tensor = value.const_value
                if tensor is not None and tuple(tensor.shape) == expected.shape and np.array_equal(tensor.numpy(), expected):
                    value.name = f"{name}.transposed"
                    del unnamed[n]
                    break


def describe(segment: SegmentModule, k: int, target: Target) -> bundle.Segment:
    """The description of segment k for variant.json."""
    layers = range(segment.begin, segment.end)
    cached = layers if segment.causal else range(0)
    entry = "hidden" if segment.begin else "tokens"
    return bundle.Segment(
        graph=f"segment-{k}.onnx",
        weights=f"segment-{k}.onnx.data",
        layers=(segment.begin, segment.end),
        hidden_dtype=target.hidden_dtype,
        cache_dtype=target.cache_dtype,
        inputs={
            entry: entry if entry == "tokens" else "hidden_in",
            **{name: name for name in ("positions", "groups", "rows")},
            **({} if segment.vocabulary is None else {"vectors": VECTORS}),
            "past_keys": [f"past_key_{n}" for n in layers],
            "past_values": [f"past_value_{n}" for n in layers],
        },
        outputs={
            **({} if segment.last else {"hidden": "hidden"}),
            "logits": "logits",
            "new_keys": [f"new_key_{n}" for n in cached],
            "new_values": [f"new_value_{n}" for n in cached],
        },
    )


def _names(described: Any) -> list[str]:
    """Tensor names in the description's order, which is that of `SegmentModule.forward`'s arguments or results."""
    return [name for value in described.values() for name in (value if isinstance(value, list) else [value])]
