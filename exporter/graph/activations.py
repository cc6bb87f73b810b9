"""Samples the inputs of a float32 graph's linear layers on training prompts, for passes that scale channels or fix a scale.

Whole slates of the training split run through the graphs, prefix and candidates. Validation prompts are reserved for the gate
(`rexit.exporter.gate.quality`), test prompts for final figures. No label is read, so prompts retrieve with the catalog's own
graph, as the runtime does; an updated catalog has no other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from rexit import slates
from rexit.errors import InputError
from rexit.exporter.graph.chain import Chain
from rexit.exporter.graph.linear_layers import by_input, fold_linear_weights, linears
from rexit.exporter.prompt.builder import Prompt
from rexit.exporter.source import Source, has_training_slates, prompt_maker
from rexit.progress import Progress, silent, tracked

SLATES = 16
SLATES_FOR_SCALES = 64
ROWS = 1024
"""Maximum number of rows of an input: evenly spaced, the same number from each run (a prefix, candidates). They include a
prompt's first token, where models put outliers."""
MIN_PROMPTS = 100
"""Fewer prompts do not show how large a layer's inputs get."""

Activations = dict[str, NDArray[np.float32]]
"""Rows [R, K], by name of the value in the float32 graph."""


def draw(source: Source, count: int = SLATES) -> list[Prompt]:
    """At most `count` training slates, the same at each call; none if the split is empty."""
    chosen = slates.draw(slates.cut(source, "train"), count, seed=1) if has_training_slates(source) else []
    return list(map(prompt_maker(source), chosen))


def draw_for_scales(source: Source) -> list[Prompt]:
    """More slates, for fixed scales, which other prompts may exceed only a little. Raises InputError: too few prompts."""
    sampled = draw(source, SLATES_FOR_SCALES)
    if (prompts := sum(len(prompt.candidates) for prompt in sampled)) < MIN_PROMPTS:
        raise InputError(
            f"{prompts} prompts of the training split are too few to calibrate on, at least {MIN_PROMPTS} are needed"
        )
    return sampled


def sample(chain: Chain, prompts: Sequence[Prompt], progress: Progress = silent) -> list[Activations]:
    """Runs prompts through a chain's float32 graphs. progress: called with "activations", the prompts done and their number.

    Returns:
        Sampled rows of each linear layer's input, by segment.
    """
    parts: list[dict[str, list[NDArray[np.float32]]]] = [{} for _ in chain.segments]
    count = ROWS // (2 * max(SLATES, len(prompts)))

    def on_value(k: int, name: str, numbers: NDArray[Any]) -> None:
        rows = numbers.reshape(-1, numbers.shape[-1])
        spaced = np.unique(np.linspace(0, len(rows) - 1, count).round().astype(int))
        parts[k].setdefault(name, []).append(rows[spaced])

    graphs = [fold_linear_weights(ir.load(chain.folder / segment.graph)) for segment in chain.segments]
    watched = [[str(group[0].input.name) for group in by_input(linears(graph))] for graph in graphs]
    watching = Chain(chain.folder, chain.segments, chain.max_tokens, chain.vectors, watched, on_value)
    for prompt in tracked(prompts, "activations", progress):
        watching.slate(prompt.prefix, prompt.candidates, liked=prompt.liked)
    return [{name: np.concatenate(rows) for name, rows in segment.items()} for segment in parts]
