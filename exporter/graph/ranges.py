"""The largest magnitude of each linear layer's input on real prompts, from which precisions with fixed scales derive theirs.

Whole slates of the training split run through the float32 graphs, prefix and candidates; validation prompts are reserved for the
gate (`rexit.exporter.gate.quality`), test prompts for final figures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rexit import slates
from rexit.bundle import Catalog
from rexit.errors import InputError
from rexit.exporter.graph.chain import Chain
from rexit.exporter.graph.observation import Observation, observe
from rexit.exporter.graph.precision.quantize_dequantize import LARGEST_MAGNITUDE
from rexit.exporter.prompt.builder import Prompt, PromptBuilder

SLATES = 64
"""Slates drawn; a slate has at most `slates.SIZE` prompts."""
MIN_PROMPTS = 100
"""Fewer prompts than this do not show how large a layer's inputs get."""

Ranges = dict[str, float]
"""Largest magnitude, by the name of the value in the float32 graph."""


def draw(catalog: Catalog) -> list[Prompt]:
    """Training slates, always the same ones. Raises InputError if there are too few prompts."""
    drawn = slates.draw(slates.cut(catalog, "train"), SLATES, seed=1) if len(catalog.split("train")) else []
    if (prompts := sum(len(slate.items) for slate in drawn)) < MIN_PROMPTS:
        raise InputError(
            f"{prompts} prompts of the training split are too few to calibrate on, at least {MIN_PROMPTS} are needed"
        )
    builder = PromptBuilder.of(catalog, "train")
    return [builder.prompt(slate.user, slate.items, slate.as_of) for slate in drawn]


def largest(
    chain: Chain,
    prompts: Sequence[Prompt],
    each: Callable[[int], None] | None = None,
) -> list[Ranges]:
    """The ranges of each segment's linear inputs, see `observation.observe`."""
    found: list[Ranges] = [{} for _ in chain.segments]

    def see(k: int, name: str, numbers: NDArray[Any]) -> None:
        found[k][name] = max(found[k].get(name, 0.0), float(np.abs(numbers).max()))

    observe(chain, prompts, see, each)
    return found


RANGES = Observation("ranges", LARGEST_MAGNITUDE, draw, largest)
