"""Watching what goes into a float32 graph's linear layers on real prompts, for passes that have to know something of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from rexit import bundle
from rexit.bundle import Catalog
from rexit.exporter.parity import Chain, chunks
from rexit.exporter.passes.fold_linear_weights import fold_linear_weights
from rexit.exporter.passes.linear import by_input, linears
from rexit.exporter.prompts import Slate


@dataclass(frozen=True)
class Observation:
    """What a target's passes are told of each value that goes into a linear layer, in its `meta` under `key`.

    name: of this step of an export. draw: prompts of a catalog, none where there is nothing to be told. gather(folder, segments,
    prompts, max_tokens, each): by segment what was seen, by the value's name; `each` is called with the number of prompts done.
    """

    name: str
    key: str
    draw: Callable[[Catalog], list[Slate]]
    gather: Callable[..., Sequence[Mapping[str, Any]]]


def linear_inputs(graph: Path) -> list[str]:
    """Names of the values that go into a float32 graph's linear layers, each once."""
    found = by_input(linears(fold_linear_weights(ir.load(graph))))
    return [str(group[0].input.name) for group in found]


def observe(
    folder: Path,
    segments: Sequence[bundle.Segment],
    prompts: Sequence[Slate],
    max_tokens: int,
    see: Callable[[int, str, NDArray[Any]], None],
    each: Callable[[int], None] | None = None,
) -> None:
    """Runs the prompts through the graphs in `folder` and hands (segment, name, numbers) to `see`, run by run."""
    chain = Chain(folder, segments, watch=[linear_inputs(folder / segment.graph) for segment in segments], see=see)
    for done, slate in enumerate(prompts, 1):
        past = chain.prefix(slate.prefix)
        for part in chunks(slate.candidates, max_tokens):
            chain.score(slate.candidates[part], len(slate.prefix), past)
        if each:
            each(done)
