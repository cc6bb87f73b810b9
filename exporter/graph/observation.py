"""Observes the inputs of a float32 graph's linear layers on real prompts, for passes that need data about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from rexit.exporter.graph.chain import Chain
from rexit.exporter.graph.linear.fold_linear_weights import fold_linear_weights
from rexit.exporter.graph.linear.linear import by_input, linears
from rexit.exporter.prompt.builder import Prompt
from rexit.exporter.source import Source


@dataclass(frozen=True)
class Observation:
    """Data about the inputs of linear layers, which passes read in a value's `meta` under `key`.

    name: of this step of an export. draw: chooses prompts from a source; none if there is nothing to observe.
    gather(chain, prompts, on_prompt): returns the data, by segment and name of the value; `on_prompt` is called with the number
    of prompts done.
    """

    name: str
    key: str
    draw: Callable[[Source], list[Prompt]]
    gather: Callable[..., Sequence[Mapping[str, Any]]]


def linear_inputs(graph: Path) -> list[str]:
    """Distinct names of the inputs of a float32 graph's linear layers."""
    groups = by_input(linears(fold_linear_weights(ir.load(graph))))
    return [str(group[0].input.name) for group in groups]


def observe(
    chain: Chain,
    prompts: Sequence[Prompt],
    on_value: Callable[[int, str, NDArray[Any]], None],
    on_prompt: Callable[[int], None] | None = None,
) -> None:
    """Runs prompts through a chain's graphs.

    Args:
        chain: float32 graphs, and the vectors of prompts.
        prompts: slates to run.
        on_value: called with (segment, name, numbers) for each linear input after each run.
        on_prompt: called with the number of prompts done.
    """
    watched = [linear_inputs(chain.folder / segment.graph) for segment in chain.segments]
    watching = Chain(chain.folder, chain.segments, chain.max_tokens, chain.vectors, watched, on_value)
    for done, prompt in enumerate(prompts, 1):
        watching.slate(prompt.prefix, prompt.candidates, liked=prompt.liked)
        if on_prompt:
            on_prompt(done)
