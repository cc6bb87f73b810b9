"""Observes the inputs of a float32 graph's linear layers on real prompts, for passes that need to know something about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from rexit.bundle import Catalog
from rexit.exporter.graph.chain import Chain
from rexit.exporter.graph.precision.fold_linear_weights import fold_linear_weights
from rexit.exporter.graph.precision.linear import by_input, linears
from rexit.exporter.prompt.builder import Prompt


@dataclass(frozen=True)
class Observation:
    """What a target's passes are told about each input of a linear layer, in its `meta` under `key`.

    name: of this step of an export. draw: chooses prompts from a catalog; none if there is nothing to observe. gather(chain,
    prompts, each): what was seen, by segment and by the value's name; `each` is called with the number of prompts done.
    """

    name: str
    key: str
    draw: Callable[[Catalog], list[Prompt]]
    gather: Callable[..., Sequence[Mapping[str, Any]]]


def linear_inputs(graph: Path) -> list[str]:
    """Names of the inputs of a float32 graph's linear layers, each once."""
    found = by_input(linears(fold_linear_weights(ir.load(graph))))
    return [str(group[0].input.name) for group in found]


def observe(
    chain: Chain,
    prompts: Sequence[Prompt],
    see: Callable[[int, str, NDArray[Any]], None],
    each: Callable[[int], None] | None = None,
) -> None:
    """Runs the prompts through the chain's graphs and calls `see` with (segment, name, numbers) after each run.

    Vectors are the chain's own, those that the variant will be given.
    """
    watched = [linear_inputs(chain.folder / segment.graph) for segment in chain.segments]
    watching = Chain(chain.folder, chain.segments, chain.max_tokens, chain.vectors, watched, see)
    for done, prompt in enumerate(prompts, 1):
        watching.slate(prompt.prefix, prompt.candidates, liked=prompt.liked)
        if each:
            each(done)
