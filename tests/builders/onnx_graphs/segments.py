"""Segments of tiny models as graphs, and inputs for them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from builders.models.checkpoints import tiny_heads, tiny_model
from builders.models.encoders import FAMILIES as ENCODERS
from builders.models.encoders import VOCAB, tiny_encoder
from builders.onnx_graphs.graphs import Arrays
from rexit.exporter.graph import trace
from rexit.exporter.graph.passes import tidy
from rexit.exporter.graph.segment import SegmentModule
from rexit.exporter.graph.targets import Target, find_target
from rexit.exporter.model.encoder import split

CPU = find_target("cpu", "fp32")


def segment(family: str = "llama", k: int = 0, begin: int = 0, end: int = 2) -> SegmentModule:
    """Layers [begin, end) of four."""
    decoder = split(tiny_encoder(family) if family in ENCODERS else tiny_model(family))
    return SegmentModule(decoder, tiny_heads(decoder, 3), k, begin, end).eval()


def exported(folder: Path, family: str = "llama") -> Path:
    """The graph of layers 1 and 2 of four as the float32 variant has it: a segment in the middle, with hidden states."""
    return folder / trace.export_segment(segment(family, 1, 1, 3), 1, CPU, folder).graph


def traced(family: str = "llama", target: Target = CPU, k: int = 0, begin: int = 0, end: int = 2) -> ir.Model:
    """A graph before any pass but `tidy`."""
    return ir.serde.deserialize_model(onnx.ModelProto.FromString(_traced(family, target, k, begin, end)))


@cache
def _traced(family: str, target: Target, k: int, begin: int, end: int) -> bytes:
    module = segment(family, k, begin, end)
    model = tidy(trace.trace(module, trace.describe(module, k, target), target.opset))
    return bytes(ir.serde.serialize_model(model).SerializeToString())


def feed(model: ir.Model, prefix: int, sizes: list[int]) -> Arrays:
    """Inputs of the graph's types: candidates of these sizes behind a random prefix of that many tokens."""
    random, lengths = np.random.default_rng(0), np.array(sizes)
    # Groups rise with gaps, as they do after compaction.
    arrays: Arrays = {"groups": np.repeat(3 * np.arange(len(sizes)) + 1, lengths), "rows": lengths.cumsum() - 1}
    arrays |= {"positions": np.concatenate([np.arange(n) + prefix for n in sizes])}
    for value in model.graph.inputs:
        assert value.shape is not None and value.dtype is not None and value.name is not None
        shape = [{"T": lengths.sum(), "P": prefix}.get(str(size), size) for size in value.shape]
        if value.name == "tokens":
            arrays["tokens"] = random.integers(3, VOCAB, shape)
        elif value.name not in arrays:
            arrays[value.name] = random.standard_normal(shape).astype(value.dtype.numpy())
    return arrays
