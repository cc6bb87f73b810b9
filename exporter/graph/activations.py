"""A few rows of each linear layer's input on real prompts, for passes that weigh one channel against another.

Slates of the training split run through the float32 graphs: some of those in `rexit.exporter.graph.ranges`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rexit import slates
from rexit.bundle import Catalog
from rexit.exporter.graph.chain import Chain
from rexit.exporter.graph.observation import Observation, observe
from rexit.exporter.graph.precision.linear import SAMPLE
from rexit.exporter.prompt.builder import Prompt, PromptBuilder

SLATES = 16
ROWS = 32
"""Rows kept from each run, evenly spaced: with two runs for a slate, 1,024 in all. They include the first: a prompt's first token
is where models put outliers."""

Activations = dict[str, NDArray[np.float32]]
"""Rows [R, K], by the name of the value in the float32 graph."""


def draw(catalog: Catalog) -> list[Prompt]:
    """Training slates, always the same ones; none if the split is empty."""
    builder = PromptBuilder.of(catalog, "train")
    drawn = slates.draw(slates.cut(catalog, "train"), SLATES, seed=1) if len(catalog.split("train")) else []
    return [builder.prompt(slate.user, slate.items, slate.as_of) for slate in drawn]


def sample(
    chain: Chain,
    prompts: Sequence[Prompt],
    each: Callable[[int], None] | None = None,
) -> list[Activations]:
    """The rows of each segment's linear inputs, see `observation.observe`."""
    found: list[dict[str, list[NDArray[np.float32]]]] = [{} for _ in chain.segments]

    def see(k: int, name: str, numbers: NDArray[Any]) -> None:
        rows = numbers.reshape(-1, numbers.shape[-1])
        kept = np.unique(np.linspace(0, len(rows) - 1, ROWS).round().astype(int))
        found[k].setdefault(name, []).append(rows[kept])

    observe(chain, prompts, see, each)
    return [{name: np.concatenate(parts) for name, parts in one.items()} for one in found]


ACTIVATIONS = Observation("activations", SAMPLE, draw, sample)
