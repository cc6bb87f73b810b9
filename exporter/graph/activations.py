"""A few rows of each linear layer's input on real prompts, for passes that weigh one channel against another or fix a scale.

Whole slates of the training split run through the float32 graphs, prefix and candidates; validation prompts are reserved for the
gate (`rexit.exporter.gate.quality`), test prompts for final figures. No label is read, so prompts are as the runtime assembles
them, from the catalog's own graph: a catalog that `rexit index --update` made has no other.
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
from rexit.exporter.graph.precision.linear import SAMPLE
from rexit.exporter.prompt.builder import Prompt, PromptBuilder

SLATES = 16
SLATES_FOR_SCALES = 64
ROWS = 1024
"""Rows kept in all at most, as many from each run (a prefix, candidates) and evenly spaced. They include a prompt's first token,
which is where models put outliers."""
MIN_PROMPTS = 100
"""Fewer prompts than this do not show how large a layer's inputs get."""

Activations = dict[str, NDArray[np.float32]]
"""Rows [R, K], by the name of the value in the float32 graph."""


def draw(catalog: Catalog, count: int = SLATES) -> list[Prompt]:
    """At most `count` training slates, always the same ones; none if the split is empty."""
    builder = PromptBuilder(catalog)
    drawn = slates.draw(slates.cut(catalog, "train"), count, seed=1) if len(catalog.split("train")) else []
    return [builder.prompt(slate.user, slate.items, slate.as_of) for slate in drawn]


def draw_for_scales(catalog: Catalog) -> list[Prompt]:
    """More of them, for scales that no other prompt may exceed by much. Raises InputError if there are too few prompts."""
    drawn = draw(catalog, SLATES_FOR_SCALES)
    if (prompts := sum(len(prompt.candidates) for prompt in drawn)) < MIN_PROMPTS:
        raise InputError(
            f"{prompts} prompts of the training split are too few to calibrate on, at least {MIN_PROMPTS} are needed"
        )
    return drawn


def sample(
    chain: Chain,
    prompts: Sequence[Prompt],
    each: Callable[[int], None] | None = None,
) -> list[Activations]:
    """The rows of each segment's linear inputs, see `observation.observe`."""
    found: list[dict[str, list[NDArray[np.float32]]]] = [{} for _ in chain.segments]
    count = ROWS // (2 * max(SLATES, len(prompts)))

    def see(k: int, name: str, numbers: NDArray[Any]) -> None:
        rows = numbers.reshape(-1, numbers.shape[-1])
        kept = np.unique(np.linspace(0, len(rows) - 1, count).round().astype(int))
        found[k].setdefault(name, []).append(rows[kept])

    observe(chain, prompts, see, each)
    return [{name: np.concatenate(parts) for name, parts in one.items()} for one in found]


ACTIVATIONS = Observation("activations", SAMPLE, draw, sample)
ACTIVATIONS_FOR_SCALES = Observation("activations", SAMPLE, draw_for_scales, sample)
