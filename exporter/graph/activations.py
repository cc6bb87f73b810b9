"""Samples rows of each linear layer's input on training prompts, for passes that scale channels or fix a scale.

Whole slates of the training split run through the float32 graphs, prefix and candidates. Validation prompts are reserved for the
gate (`rexit.exporter.gate.quality`), test prompts for final figures. No label is read, so prompts retrieve with the catalog's own
graph, as the runtime does; an updated catalog has no other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rexit import slates
from rexit.errors import InputError
from rexit.exporter.graph.chain import Chain
from rexit.exporter.graph.linear.linear import SAMPLE
from rexit.exporter.graph.observation import Observation, observe
from rexit.exporter.prompt.builder import Prompt
from rexit.exporter.source import Source, has_training_slates, prompt_maker

SLATES = 16
SLATES_FOR_SCALES = 64
ROWS = 1024
"""Most rows, equally many and evenly spaced from each run (a prefix, candidates). They include a prompt's first token, where
models put outliers."""
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


def sample(
    chain: Chain,
    prompts: Sequence[Prompt],
    on_prompt: Callable[[int], None] | None = None,
) -> list[Activations]:
    """Sampled rows of each segment's linear inputs, see `observation.observe`."""
    parts: list[dict[str, list[NDArray[np.float32]]]] = [{} for _ in chain.segments]
    count = ROWS // (2 * max(SLATES, len(prompts)))

    def on_value(k: int, name: str, numbers: NDArray[Any]) -> None:
        rows = numbers.reshape(-1, numbers.shape[-1])
        spaced = np.unique(np.linspace(0, len(rows) - 1, count).round().astype(int))
        parts[k].setdefault(name, []).append(rows[spaced])

    observe(chain, prompts, on_value, on_prompt)
    return [{name: np.concatenate(rows) for name, rows in segment.items()} for segment in parts]


ACTIVATIONS = Observation("activations", SAMPLE, draw, sample)
ACTIVATIONS_FOR_SCALES = Observation("activations", SAMPLE, draw_for_scales, sample)
